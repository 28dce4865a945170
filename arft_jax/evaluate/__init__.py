"""Benchmarks: greedy rollouts, scored."""
