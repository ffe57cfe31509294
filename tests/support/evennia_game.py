"""A game of Evennia's with one character that asks a server for its words; run by an interpreter that has Evennia.

`python evennia_game.py FOLDER URL SPEECH...` lets a player say each speech to the character, one after the other, and
prints what the player is told as a list in JSON.
"""
# ruff: noqa: ANN001, ANN003, ANN202, T201
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false

import json
import os
import sys
from pathlib import Path
from typing import Any

SETTINGS = """
from evennia.settings_default import *

SECRET_KEY = "not a secret"
SERVERNAME = "Game"
GAME_DIR = {folder!r}
LOG_DIR = {folder!r}
SERVER_LOG_FILE = {folder!r} + "/server.log"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
DEFAULT_HOME = "#1"


class NoMigrations:
    def __contains__(self, app):
        return True

    def __getitem__(self, app):
        return None


MIGRATION_MODULES = NoMigrations()
LLM_HOST = {url!r}
LLM_PATH = "/api/v1/generate"
LLM_HEADERS = {{"Content-Type": ["application/json"]}}
LLM_REQUEST_BODY = {{"max_new_tokens": 250, "temperature": 0.7}}
"""
"""The settings that Evennia's own guide has for such a server, and a world in memory."""
TIMEOUT_S = 60


def main(folder: str, url: str, speeches: list[str]) -> None:
    """Plays the game."""
    (Path(folder) / "game_settings.py").write_text(SETTINGS.format(folder=folder, url=url), encoding="utf-8")
    sys.path.insert(0, folder)
    os.environ["DJANGO_SETTINGS_MODULE"] = "game_settings"
    import django

    django.setup()
    import evennia
    from django.core.management import call_command

    call_command("migrate", verbosity=0, run_syncdb=True)
    evennia._init()
    from evennia.contrib.rpg.llm.llm_npc import LLMNPC
    from evennia.objects.objects import DefaultCharacter, DefaultRoom
    from twisted.internet import defer, reactor

    heard: list[str] = []

    def msg(self, text: Any = None, **_):
        if self.key == "Ada":
            heard.append(text[0] if isinstance(text, tuple) else text)

    DefaultCharacter.msg = msg
    mill = evennia.create_object(DefaultRoom, key="the mill", nohome=True)
    ada = evennia.create_object(DefaultCharacter, key="Ada", location=mill, home=mill)
    miller = evennia.create_object(LLMNPC, key="Mo", location=mill, home=mill)
    miller.db.desc = "a miller"
    heard.clear()

    @defer.inlineCallbacks
    def talk():
        try:
            for speech in speeches:
                yield miller.at_talked_to(speech, ada)
        finally:
            reactor.stop()

    reactor.callWhenRunning(talk)
    reactor.callLater(TIMEOUT_S, reactor.stop)
    reactor.run()
    print(json.dumps(heard))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
