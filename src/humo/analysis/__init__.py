"""Measurements of videos as functions of frames and audio: faces, lip sync, identity, stability."""
