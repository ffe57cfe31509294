"""The protocol of the AI Horde, for those who ask for text."""
