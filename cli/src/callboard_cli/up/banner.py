"""What `up` prints when everything is ready: the address and what to try."""

import json
from collections.abc import Mapping

from callboard_contracts.config import Config


def address(config: Config, port: int) -> str:
    """Returns the address for a browser or curl on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.edge.host, config.edge.host)
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port}"


def banner(config: Config, port: int, took_s: float, data_dir: str) -> str:
    """Returns the text."""
    base = address(config, port)
    lines = [f"Callboard is ready at {base} ({took_s:.1f} s)", "", "  A page to talk and listen:", f"    {base}/", ""]
    chat = config.chat.default_model or next(iter(config.chat.models), None)
    if chat:
        body = {
            "model": chat,
            "stream": True,
            "messages": [{"role": "user", "content": "Who are you, and what can you do?"}],
        }
        lines += ["  A chat, as it is written:", f"    {_curl(config, base, '/v1/chat/completions', body, '-N')}", ""]
    speech = next(iter(config.tts.models), None)
    if speech:
        body = {
            "model": speech,
            "voice": config.tts.models[speech].default_voice,
            "input": "Good evening, ladies and gentlemen. Places, please.",
        }
        lines += ["  A voice, as MP3:", f"    {_curl(config, base, '/v1/audio/speech', body, '-o places.mp3')}", ""]
    lines += [
        "  The API, described:",
        f"    {base}/docs",
        "",
        f"Logs are in {data_dir}/logs. Ctrl-C stops everything.",
    ]
    return "\n".join(lines)


def _curl(config: Config, base: str, path: str, body: Mapping[str, object], options: str) -> str:
    key = " -H 'Authorization: Bearer YOUR_KEY'" if config.quota.require_key else ""
    return f"curl {options} {base}{path} -H 'Content-Type: application/json'{key} -d '{json.dumps(body)}'"
