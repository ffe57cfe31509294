"""Writes down speech: jobs from the queue, text back as it is recognised."""
