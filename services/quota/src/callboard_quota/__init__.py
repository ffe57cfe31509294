"""The quota service: holds before work, settlement after, and the counters that prove both."""
