"""The decisions of a chat worker, free of transports and engines."""
