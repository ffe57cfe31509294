"""Real processes, real servers and stub engines for the tests."""
