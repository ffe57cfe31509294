"""The base of every message on the wire."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A frozen message whose unknown fields are ignored, so that a newer sender can talk to an older receiver."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def __eq__(self, other: Any) -> bool:
        """Whether all fields are equal; `compact` asks this of every message inside another."""
        if type(self) is not type(other):
            return NotImplemented
        return self is other or self.__dict__ == other.__dict__

    def encoded(self) -> bytes:
        """The message as it is published: JSON without the fields that are None."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)

    def whole(self) -> bytes:
        """The message as JSON with every field."""
        return self.__pydantic_serializer__.to_json(self)

    def compact(self) -> bytes:
        """The message as JSON without the fields at their defaults, for messages with many fields that few set.

        A default of such a message is a part of the wire, and never changes.
        """
        return self.__pydantic_serializer__.to_json(self, exclude_defaults=True)
