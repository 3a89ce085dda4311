"""An open benchmark of 200 cases of rendered people, synthetic speech and rendered objects, written by a command."""
