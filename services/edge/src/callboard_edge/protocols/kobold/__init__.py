"""What clients of KoboldAI, KoboldCpp and text-generation-webui's first API speak."""
