"""Rollouts: the slot scheduler, its device state, and the record of each row."""
