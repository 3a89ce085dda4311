"""Published networks that measure videos, with the parameter names of their released weights."""
