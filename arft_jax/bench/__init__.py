"""Figures of this library and of peers on one model shape, taken side by side."""
