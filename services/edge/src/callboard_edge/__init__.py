"""The HTTP edge: client protocols in, jobs out to the board, frames back."""
