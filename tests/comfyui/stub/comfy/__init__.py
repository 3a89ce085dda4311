"""The one internal function of ComfyUI that the nodes call."""
