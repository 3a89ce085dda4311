"""The HTTP service: durable jobs, one worker process a device, and nothing from outside that is trusted."""
