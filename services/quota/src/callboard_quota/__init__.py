"""The quota service: holds before work, settlement after, and the books that prove both."""
