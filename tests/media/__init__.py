"""Images, audio and videos, in and out."""
