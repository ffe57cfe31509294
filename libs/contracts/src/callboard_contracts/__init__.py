"""The wire between Callboard's services: messages, subjects, streams and error codes.

This distribution depends on pydantic alone. It holds no behaviour beyond checking and naming, so that every
service, and a client that wants to watch the bus, can share it.
"""
