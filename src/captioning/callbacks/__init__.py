"""What happens around training: one subject a file."""
