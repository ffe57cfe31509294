"""The whole product as its users run it: real processes, real signals, the official clients."""
