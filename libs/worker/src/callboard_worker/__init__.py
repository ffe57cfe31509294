"""The runtime that every worker shares."""
