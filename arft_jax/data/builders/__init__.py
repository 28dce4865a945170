"""TFDS builders of the self-made task sets; they need no TensorFlow."""
