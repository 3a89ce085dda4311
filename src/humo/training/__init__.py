"""Training of networks, autoencoders and text encoders; start reading at `humo.training.train`."""
