"""People that never lived: synthetic talking clips with their truth, for training and tests."""
