"""R_format and R_acc."""
