"""The largest pictures and sounds that are read, in a module that imports nothing: a decoder starts with it."""

from __future__ import annotations

MAX_IMAGE_PIXELS = 64_000_000
"""A picture larger than this is refused before it is decoded."""

MAX_AUDIO_SECONDS = 3600.0
"""A sound longer than this is refused while it is read."""
