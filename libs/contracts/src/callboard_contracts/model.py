"""The base of every message on the wire."""

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A frozen message whose unknown fields are ignored, so that a newer sender can talk to an older receiver."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def encoded(self) -> bytes:
        """The message as it is published: JSON without the fields that are None."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)

    def compact(self) -> bytes:
        """The message as JSON without the fields at their defaults, for messages with many fields that few set.

        A default of such a message is a part of the wire, and never changes.
        """
        return self.__pydantic_serializer__.to_json(self, exclude_defaults=True)
