"""HTTP service: a durable job queue, one worker process per device, and sanitized uploads."""
