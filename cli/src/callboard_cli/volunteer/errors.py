"""How engines fail, told apart by whether another try can help."""


class EngineFailed(Exception):  # noqa: N818 - a state of another program
    """The engine refused a job or broke off; the message is for the volunteer's operator, without any of the prompt."""


class EngineAway(EngineFailed):
    """The engine cannot be reached, or has no room at the moment."""
