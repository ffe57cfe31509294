"""Runs the quota service: `python -m callboard_quota [--config callboard.toml]`."""

import sys

from callboard_kit.lifecycle import run_service
from callboard_kit.native_code import explained_imports

with explained_imports("quota"):
    from callboard_quota.app import main

if __name__ == "__main__":
    sys.exit(run_service("quota", main))
