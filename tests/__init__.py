"""Callboard's tests, by tier."""
