"""What arrives from the board."""
