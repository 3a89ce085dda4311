"""From one request to frames."""
