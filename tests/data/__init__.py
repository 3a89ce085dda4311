"""Tests of building datasets from raw videos."""
