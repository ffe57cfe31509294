"""Checks whether a text can be spoken."""

from callboard_contracts.errors import CallboardError, ErrorCode


def check_text(text: str, max_characters: int) -> None:
    """Refuses a text that cannot be spoken.

    Raises:
        CallboardError: `text_too_long`, or `invalid_request` for a text without a letter or a digit, or one that is
            not valid Unicode.
    """
    if len(text) > max_characters:
        raise CallboardError(
            ErrorCode.TEXT_TOO_LONG,
            f"The input has {len(text)} characters; at most {max_characters} can be spoken in one request.",
            param="input",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CallboardError(
            ErrorCode.INVALID_REQUEST,
            "The input is not valid Unicode: it holds half of a surrogate pair.",
            param="input",
        ) from None
    if not any(character.isalnum() for character in text):
        raise nothing_to_speak()


def nothing_to_speak() -> CallboardError:
    """Builds the error for a text without anything that can be spoken."""
    return CallboardError(ErrorCode.INVALID_REQUEST, "The input holds nothing that can be spoken.", param="input")
