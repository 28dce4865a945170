"""What a run needs on hardware that is not here, from compiling its programs."""
