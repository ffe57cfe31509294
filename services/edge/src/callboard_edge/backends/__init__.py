"""The ways out of the edge: the board, the frames that come back, and the quota desk."""
