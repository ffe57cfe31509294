"""What Callboard costs, measured against the engine alone in the same run."""
