"""Datasets from raw videos: stages that score each item, one engine for processes and Ray, thresholds at the end."""
