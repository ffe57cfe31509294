"""Callboard's edge service."""
