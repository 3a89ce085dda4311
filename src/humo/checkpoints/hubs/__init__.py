"""Models that can be downloaded, and the hubs they are downloaded from."""
