"""The plumbing that every Callboard process shares; it knows no business words."""
