"""Speech heard back: sentences are spoken by the real engine and written down by a recogniser."""
