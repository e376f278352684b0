"""From any source of captioned images to batches. Knows nothing of Lightning or of the model."""
