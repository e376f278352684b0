"""Lightning: the data module, the module, the trainer, and everything around a training."""
