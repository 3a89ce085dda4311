"""Synthesized speech and the face that speaks it."""
