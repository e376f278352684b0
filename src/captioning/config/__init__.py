"""The configuration: its schema, how it is composed, and one-line answers to mistakes in it."""
