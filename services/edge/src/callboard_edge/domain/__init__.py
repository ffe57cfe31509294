"""The edge's decisions; nothing here knows HTTP, the bus, metrics or the environment."""
