"""The `callboard` command: runs an installation on one machine, administers it, and answers questions about it."""
