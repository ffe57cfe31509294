"""The rooms service: conversations that are kept, and their turns in order."""
