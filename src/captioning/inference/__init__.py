"""Captions from a trained model, without Lightning."""
