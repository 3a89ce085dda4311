"""The web page: static files that call the HTTP API."""
