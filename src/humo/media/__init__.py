"""Pictures, sounds and videos: in and out, by Pillow and PyAV."""
