"""Callboard's tts service."""
