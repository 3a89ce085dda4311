"""The network: transformer, audio layers, injection of reference images, autoencoder."""
