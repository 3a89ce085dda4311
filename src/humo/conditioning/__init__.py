"""From words, pictures and sound to the tensors that steer the network."""
