"""How work arrives from the bus."""
