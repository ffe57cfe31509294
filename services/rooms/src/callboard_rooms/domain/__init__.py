"""What becomes of rooms, free of transport."""
