"""HuMo: words, pictures and a sound track in, a video of that person speaking it out."""

__version__ = "0.1.0"
