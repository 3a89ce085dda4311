"""The trainer: `train` is the story, read from top to bottom; the rest are its chapters."""
