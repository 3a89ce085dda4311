"""The ComfyUI nodes, run as ComfyUI runs them, against a typed stand-in for its interface."""
