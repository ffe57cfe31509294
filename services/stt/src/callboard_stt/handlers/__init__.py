"""From a job on the bus to its usage event."""
