"""Of ComfyUI's insides, the one function that the nodes call."""
