"""Callboard's chat service."""
