"""Checkpoints, weights, metrics."""
