"""What else there is for the same work, measured beside Callboard; `scripts/compared FOLDER` installs it."""
