"""What is decided about speech: which words are spoken, in which pieces, with which voice, and how they are joined."""
