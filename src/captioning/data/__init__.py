"""From any source of captioned pictures to batches. Knows nothing of Lightning or of the model."""
