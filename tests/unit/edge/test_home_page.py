"""What each kind of client gets at the root and at paths that are nobody's, and the page for browsers."""

import re

import pytest

from callboard_edge.http.home_page import HEADERS, MEDIA_TYPES
from tests.unit.edge.harness import EdgeHarness, running

pytestmark = pytest.mark.unit

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
PROGRAMS = {
    "curl": {"User-Agent": "curl/8.5.0", "Accept": "*/*"},
    "ollama in Python": {"User-Agent": "ollama-python/0.6.3", "Accept": "application/json"},
    "ollama in Go": {"User-Agent": "ollama/0.12.11 (amd64 linux) Go/go1.24", "Accept": "application/json"},
    "fetch of a page": {"User-Agent": "Mozilla/5.0 Chrome/140", "Accept": "*/*", "Origin": "https://lite.example"},
    "LSL": {"X-SecondLife-Shard": "OpenSim", "Accept": "text/plain"},
    "nothing told": {"Accept": ""},
}
LIVENESS = "Ollama is running"


@pytest.mark.parametrize("headers", PROGRAMS.values(), ids=list(PROGRAMS))
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_programs_are_told_at_the_root_that_the_server_runs(
    method: str, headers: dict[str, str], harness: EdgeHarness
) -> None:
    async with harness.session.request(method, harness.url + "/", headers=headers) as reply:
        assert (reply.status, reply.content_type) == (200, "text/plain")
        assert await reply.text() == (LIVENESS if method == "GET" else "")
        assert reply.headers.getall("Vary") == ["Accept"]
        assert reply.headers["Access-Control-Allow-Origin"] == "*"


async def test_browser_gets_the_page_at_the_root_and_head_stays_plain(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/?from=mail", headers={"Accept": BROWSER}) as reply:
        assert (reply.status, reply.content_type) == (200, "text/html")
        assert "<title>Callboard</title>" in await reply.text()
        assert {name: reply.headers[name] for name in HEADERS} == dict(HEADERS)
        assert reply.headers.getall("Vary") == ["Accept"]
    async with harness.session.head(harness.url + "/", headers={"Accept": BROWSER}) as reply:
        assert (reply.status, reply.content_type) == (200, "text/plain")


async def test_both_answers_at_the_root_vary_where_origins_are_named() -> None:
    async with running({"edge": {"cors_origins": ["https://page.example"]}}) as harness:
        for accept in (BROWSER, "*/*"):
            async with harness.session.get(harness.url + "/", headers={"Accept": accept}) as reply:
                assert reply.headers.getall("Vary") == ["Origin", "Accept"]


async def test_page_needs_no_key_where_all_else_does() -> None:
    async with running({"quota": {"require_key": True}}) as harness:
        harness.quota.require_key = True
        for headers in ({"Accept": BROWSER}, {"Accept": "*/*"}):
            async with harness.session.get(harness.url + "/", headers=headers) as reply:
                assert reply.status == 200


async def test_page_loads_files_of_its_own_folder_alone_and_runs_nothing_inline(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/", headers={"Accept": BROWSER}) as reply:
        page = await reply.text()
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\bsrc=)|https?://|//[a-z]", page)
    files = set(re.findall(r'(?:src|href)="(home/[^"]+)"', page))
    assert files == {"home/icon.svg", "home/page.css", "home/page.js"}
    while files:
        name = files.pop()
        async with harness.session.get(f"{harness.url}/{name}") as reply:
            assert reply.status == 200, name
            assert reply.content_type == MEDIA_TYPES[name[name.rindex(".") :]]
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            text = await reply.text()
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|url\(", text)
        assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
        files |= {"home/" + found for found in re.findall(r'"\./([\w.-]+\.js)"', text)}
    for name in ("nothing.js", "index.html/", "..%2fdocs.html", "%2e%2e/docs.html"):
        async with harness.session.get(f"{harness.url}/home/{name}") as reply:
            assert reply.status != 200, name


UNKNOWN = {
    "OpenAI": ("/v1/nothing", 404, "error"),
    "Kobold": ("/api/v1/nothing", 404, "detail"),
    "Ollama": ("/api/nothing", 404, None),
    "Socket.IO": ("/socket.io/?EIO=4&transport=polling", 404, None),
    "a page of KoboldAI Lite in a folder": ("/lite/api/v1/model", 404, None),
    "such a page that looks for OpenAI's paths": ("/lite/v1/models", 404, None),
    "AI Talkmaster": ("/ait/nothing", 401, "message"),
    "nobody": ("/nothing", 401, "message"),
    "nobody, with a slash": ("/nothing/at/all/", 401, "message"),
}


@pytest.mark.parametrize(("path", "status", "field"), UNKNOWN.values(), ids=list(UNKNOWN))
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_unknown_path_is_answered_as_the_clients_of_its_prefix_expect(
    method: str, path: str, status: int, field: str | None, harness: EdgeHarness
) -> None:
    async with harness.session.request(method, harness.url + path, headers={"Accept": "*/*"}) as reply:
        assert reply.status == status
        if field is None:
            assert reply.content_type == "text/plain"
            assert not (await reply.text()).startswith(("{", "[", '"'))
        else:
            assert field in await reply.json()


async def test_person_who_asks_for_an_unknown_path_reads_text(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/nothing", headers={"Accept": BROWSER}) as reply:
        assert (reply.status, reply.content_type) == (404, "text/plain")
    async with harness.session.get(harness.url + "/v1/nothing", headers={"Accept": BROWSER}) as reply:
        assert (reply.status, reply.content_type) == (404, "application/json")


async def test_other_methods_than_get_lead_nowhere_at_the_root(harness: EdgeHarness) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        async with harness.session.request(method, harness.url + "/") as reply:
            assert (reply.status, list(await reply.json())) == (401, ["message"])
    async with harness.session.options(harness.url + "/") as reply:
        assert (reply.status, await reply.read()) == (200, b"")


async def test_service_info_names_the_protocols(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/.well-known/serviceinfo") as reply:
        told = await reply.json()
    assert (told["version"], told["software"]["name"]) == ("0.2", "Callboard")
    assert {name: api["rel_url"] for name, api in told["api"].items()} == {
        "koboldai": "/api",
        "openai": "/v1",
        "anthropic": "/",
        "ollama": "/",
    }
    assert all(set(api) == {"name", "rel_url", "documentation", "version"} for api in told["api"].values())
