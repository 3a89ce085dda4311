"""Encoding of prompts, images and audio to the condition tensors of the network."""
