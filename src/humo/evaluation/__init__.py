"""Measures videos of talking people: lips against the sound, the person against the picture, the words."""
