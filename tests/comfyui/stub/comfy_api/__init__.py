"""A stand-in for ComfyUI's node interface, typed: what the nodes use of it, with the same names and arguments."""
