"""What comes to the service: requests, the ends of turns, and the passing of time."""
