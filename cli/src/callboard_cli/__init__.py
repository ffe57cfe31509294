"""The `callboard` command: bring the board up, look after it, and ask it questions."""
