"""What can go wrong on the bus."""


class BusError(Exception):
    """The root of what can go wrong on the bus."""


class BusUnavailable(BusError):  # noqa: N818 - a state, as the field names it
    """The bus did not answer in time; the operation may or may not have happened."""


class NoResponders(BusError):  # noqa: N818 - the protocol's own term
    """Nobody listens on the subject of a request."""


class PublishRefused(BusError):  # noqa: N818 - a decision, not a failure
    """A stream refused a message, for instance because its bound is reached; a repeat will not help at once."""

    def __init__(self, err_code: int, description: str) -> None:
        super().__init__(description)
        self.err_code = err_code


class ApiError(BusError):
    """The server's stream API answered with an error."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.err_code = err_code
