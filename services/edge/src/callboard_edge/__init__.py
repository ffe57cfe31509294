"""The HTTP edge: client protocols in, jobs out to the bus, frames back."""
