"""Where requests and usage events come in."""
