"""The jitted programs; the only floor with jax.jit."""
