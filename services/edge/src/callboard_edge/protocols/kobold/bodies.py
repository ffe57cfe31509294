"""What these clients send and read.

They are many and write their numbers as they like, so that much is taken that is not quite right: numbers in text,
`null` for whatever is left out, and values out of range, which are brought into it.
"""

from callboard_edge.http.bodies import Body


class AnyBody(Body):
    """A request whose fields are not looked at."""
