"""Encodes PCM in the client's format while it is still being spoken."""
