"""OpenAI's protocol: chat, completions, speech, models, voices and usage."""
