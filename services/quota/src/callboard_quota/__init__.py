"""Callboard's quota service."""
