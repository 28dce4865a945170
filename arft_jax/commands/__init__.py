"""What the command lines do, as functions."""
