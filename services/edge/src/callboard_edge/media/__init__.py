"""The media room: PCM goes in, a clip in the client's format comes out while it is still being spoken."""
