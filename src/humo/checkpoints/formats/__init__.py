"""Files of weights: safetensors, torch and GGUF."""
