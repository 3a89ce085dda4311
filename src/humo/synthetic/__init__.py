"""Render talking people with ground truth, for training and tests."""
