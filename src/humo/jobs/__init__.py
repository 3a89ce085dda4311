"""From requests to finished files."""
