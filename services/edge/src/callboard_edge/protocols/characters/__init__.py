"""Characters by an HTTP API of their own: one POST with a speaker and a text, and what a character remembers."""
