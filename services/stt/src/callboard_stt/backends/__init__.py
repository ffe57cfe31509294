"""The engines that write down speech, and the decoder before them."""

import os

# onnxruntime looks up its vendor's host as soon as it is imported, and Whisper's loader looks for newer files; every
# file that is needed is here already.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
