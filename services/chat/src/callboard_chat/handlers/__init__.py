"""What arrives over the bus."""
