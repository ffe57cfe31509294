"""The ways in: one module for each group of paths of a client protocol."""
