"""Array arithmetic shared by the model and the losses."""
