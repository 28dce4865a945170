"""Picking tokens and recognising stops."""
