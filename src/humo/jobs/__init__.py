"""Jobs: requests to finished files, batches and replay."""
