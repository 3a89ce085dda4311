"""Device, precision, estimated memory, placement and offloading."""
