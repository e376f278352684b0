"""The network: loading, the forward pass of a training step, generation. Knows nothing of the data or of Lightning."""
