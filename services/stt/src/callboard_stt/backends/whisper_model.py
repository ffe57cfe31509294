"""faster-whisper's model, which reads the beginning of a sound once where the package reads it twice."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_whisper import WhisperModel

Features = npt.NDArray[np.float32]


class _Encoded(threading.local):
    """What a thread has encoded to find a language, until it is decoded too."""

    finds_language = False
    features: Features | None = None
    output: Any = None


class WhisperEncodedOnce(WhisperModel):
    """A model that decodes what it encoded to find the language of a sound.

    The encoder takes the same time for any sound of up to 30 seconds, which is most of what a short one takes at all.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._encoded = _Encoded()
        super().__init__(*arguments, **options)

    def detect_language(
        self, audio: Any = None, features: Features | None = None, *arguments: Any, **options: Any
    ) -> Any:
        """Finds the language by the very frames that are decoded first, which are all but the last."""
        if features is not None and features.shape[-1] > 1:
            features = features[..., :-1]
        self._encoded.finds_language = True
        try:
            return super().detect_language(audio, features, *arguments, **options)
        finally:
            self._encoded.finds_language = False

    def encode(self, features: Features) -> Any:
        """Encodes frames, unless they are those by which this thread has just found a language."""
        kept = self._encoded
        known, output = kept.features, kept.output
        kept.features = kept.output = None
        if known is None or not np.array_equal(known, features):
            output = super().encode(features)
        if kept.finds_language:
            kept.features, kept.output = features, output
        return output
