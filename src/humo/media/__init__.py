"""Images, audio and videos, read and written with Pillow and PyAV, and their provenance."""
