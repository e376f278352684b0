"""Run folders: written, read, reported and compared."""
