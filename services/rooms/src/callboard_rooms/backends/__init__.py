"""Where rooms are kept, and what their turns need from the bus."""
