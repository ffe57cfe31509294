"""What a transcription is made of: no bus, no environment, no engine."""
