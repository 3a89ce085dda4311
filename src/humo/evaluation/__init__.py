"""Metrics of talking-head videos: lip sync, identity and visible attributes, for a model or for one video."""
