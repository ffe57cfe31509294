"""faster-whisper called alone, in a process of its own: a file a line in, its figures a line out."""

import json
import sys
import time

from faster_whisper import WhisperModel

from callboard_kit.control_groups import processors


def main() -> None:
    """Writes down what it is told, with the folder of the model given on the command line."""
    threads = processors()
    model = WhisperModel(sys.argv[1], device="cpu", compute_type="auto", cpu_threads=threads, local_files_only=True)
    for line in sys.stdin:
        start = time.monotonic()
        segments, info = model.transcribe(json.loads(line), beam_size=1, vad_filter=True)
        text = "".join(segment.text for segment in segments)
        took_s = time.monotonic() - start
        print(json.dumps({"took_s": took_s, "audio_s": info.duration, "words": len(text.split())}), flush=True)


if __name__ == "__main__":
    main()
