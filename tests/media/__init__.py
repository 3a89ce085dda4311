"""Pictures, sounds and videos, in and out."""
