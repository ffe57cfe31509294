"""kokoro-onnx called alone, in a process of its own: each line of input is a text, each line of output its figures."""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from kokoro_onnx import Kokoro

WARM_UP = ("Hello there.", "The owl is on the roof, and the send_load begins at eight.", "word " * 40)


def main() -> None:
    """Speaks what it is told, with the voice's `.bin` file and the model given on the command line."""
    model, voice_file = sys.argv[1], Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        voices = Path(folder) / "voices.npz"
        np.savez(voices, voice=np.fromfile(voice_file, np.float32).reshape(-1, 1, 256))
        engine = Kokoro(model, str(voices))
    for text in WARM_UP:
        engine.create(text, "voice", lang="en-us")
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.monotonic()
        samples, _ = engine.create(json.loads(line), "voice", lang="en-us")
        took_s = time.monotonic() - start
        print(json.dumps({"took_s": took_s, "audio_s": len(samples) / 24_000}), flush=True)


if __name__ == "__main__":
    main()
