"""The AI Talkmaster protocol."""
