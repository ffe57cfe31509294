"""The spirit box: a voice that is asked by voice, over Socket.IO."""
