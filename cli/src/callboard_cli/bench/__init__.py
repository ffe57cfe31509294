"""Measures an installation from outside, as its clients meet it."""
