"""What can be downloaded, and from where."""
