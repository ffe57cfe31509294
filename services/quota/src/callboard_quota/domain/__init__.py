"""The decisions of the quota service, free of transport."""
