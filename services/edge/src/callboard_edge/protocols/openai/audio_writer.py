"""OpenAI's replies with audio: the text is the audio's transcript, and the sound comes as base64 beside it."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from callboard_contracts.chat import ChatEnd
from callboard_contracts.streams import RESULT_LIFE_S
from callboard_edge.domain.word_times import TimedWord
from callboard_edge.http.narrated_responder import SpokenReply
from callboard_edge.protocols.openai.words import word_objects
from callboard_edge.protocols.openai.writer import ChatWriter, ReplyHead, encoded, usage_object

AUDIO_ID = r"audio_([0-9a-f]{32})"
"""What a reply's audio is called, by its request; a later message may name it while the result is kept."""


class AudioChatWriter(ChatWriter):
    """Writes the reply to a conversation with its sound."""

    def __init__(self, head: ReplyHead, request_id: str) -> None:
        super().__init__(head)
        self._audio_id = f"audio_{request_id}"
        self._expires_at = head.created + RESULT_LIFE_S

    def opening(self) -> bytes:
        """The first chunk, which names the role and the audio."""
        opening = f'{{"role":"assistant","content":null,"audio":{{"id":"{self._audio_id}","transcript":""}}}}'
        return self.delta(opening).encode()

    def piece(self, text: str) -> str:
        """A chunk of text."""
        return self.delta(f'{{"audio":{{"transcript":{quoted(text)}}}}}')

    def audio(self, sound: bytes) -> bytes:
        """A chunk of sound."""
        return self.delta(f'{{"audio":{{"data":"{base64.b64encode(sound).decode()}"}}}}').encode()

    def words(self, words: Sequence[TimedWord]) -> bytes:
        """A chunk of word timestamps."""
        return self.delta(f'{{"audio":{{"words":{json.dumps(word_objects(words), separators=(",", ":"))}}}}}').encode()

    def ending(self, reply: SpokenReply) -> bytes:
        """The last chunks: until when the audio can be named, why the reply ended, and what it used."""
        expiry = self.delta(f'{{"audio":{{"id":"{self._audio_id}","expires_at":{self._expires_at}}}}}').encode()
        return expiry + self.finished(_end(reply)) + self.usage_chunk(spoken_usage(reply))

    def spoken(self, reply: SpokenReply, sound: bytes) -> bytes:
        """The whole reply with its sound."""
        answer = self.answer(replace(reply.text, end=_end(reply)))
        message = answer["choices"][0]["message"]
        message["content"] = None
        message["audio"] = {
            "id": self._audio_id,
            "data": base64.b64encode(sound).decode(),
            "expires_at": self._expires_at,
            "transcript": reply.text.text,
            **({"words": word_objects(reply.words)} if reply.words else {}),
        }
        return encoded({**answer, "usage": spoken_usage(reply)})


def spoken_usage(reply: SpokenReply) -> dict[str, Any]:
    """Token counts in OpenAI's form; audio counts what quota charged for it."""
    usage = usage_object(reply.text.end.usage)
    text_tokens = usage["completion_tokens"]
    usage["completion_tokens"] = text_tokens + reply.audio_tokens
    usage["total_tokens"] += reply.audio_tokens
    usage["completion_tokens_details"] |= {"text_tokens": text_tokens, "audio_tokens": reply.audio_tokens}
    return usage


def _end(reply: SpokenReply) -> ChatEnd:
    """The end of the reply; sound that a limit cut short counts as too long."""
    end = reply.text.end
    return end.model_copy(update={"reason": "length"}) if reply.speech.reason == "limit" else end
