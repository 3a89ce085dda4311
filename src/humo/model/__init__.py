"""The network: transformer, audio layers, and how a reference picture enters."""
