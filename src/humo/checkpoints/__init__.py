"""Weights: the published files' names, conversion both ways, model folders."""
