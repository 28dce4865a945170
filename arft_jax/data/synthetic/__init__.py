"""Seeded, self-made tasks: degraded cards to repair and emblems to look up."""
