"""Runs the rooms service: `python -m callboard_rooms [--config callboard.toml]`."""

import sys

from callboard_kit.lifecycle import run_service
from callboard_kit.native_code import explained_imports

with explained_imports("rooms"):
    from callboard_rooms.app import main

if __name__ == "__main__":
    sys.exit(run_service("rooms", main))
