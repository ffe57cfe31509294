"""The edge's small rules: addresses, bounds, paths, and how an inbox fills."""

import asyncio
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from callboard_contracts.chat import ChatMessage, ChatRequest, Image, Tool
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.pools import ChatSection
from callboard_contracts.prompt_size import prompt_tokens_bound, usual_prompt_tokens
from callboard_contracts.quota import LimitState
from callboard_edge.backends.inbox import RequestInbox
from callboard_edge.domain.catalogue import chat_catalogue
from callboard_edge.domain.prompt_bound import check_context
from callboard_edge.http.addresses import client_address
from callboard_edge.http.rate_limits import rate_limit_headers
from callboard_edge.http.route import Route
from callboard_edge.http.router import Router
from callboard_kit.background_tasks import BackgroundTasks

pytestmark = pytest.mark.unit

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
OWL = chat_catalogue(
    ChatSection.model_validate(
        {
            "pools": {"main": {"backend": "fake"}},
            "models": {"owl": {"pool": "main", "context_tokens": 128, "max_output_tokens": 16}},
        }
    )
).resolve("owl")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.7", ["1.2.3.4"], "198.51.100.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.2.3.4, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["1.2.3.4", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["1.2.3.4, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::"),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::"),
        ("::1", [], "::1"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        (None, ["1.2.3.4"], None),
        ("", [], ""),
    ],
)
def test_address_is_the_first_that_no_proxy_of_ours_vouches_for(
    peer: str | None, forwarded: list[str], address: str | None
) -> None:
    assert client_address(peer, forwarded, PROXIES) == address


@given(text=st.text(max_size=200), count=st.integers(1, 5))
def test_bound_is_never_under_the_bytes_of_the_prompt(text: str, count: int) -> None:
    request = ChatRequest(
        model="owl", messages=tuple(ChatMessage(role="user", content=text) for _ in range(count)), max_output_tokens=1
    )
    written = len(text.encode("utf-8", "surrogatepass")) * count
    assert prompt_tokens_bound(request, 10**9) >= written
    assert prompt_tokens_bound(request, 100) <= 100


def test_bound_with_an_image_is_the_whole_context() -> None:
    image = Image(media_type="image/png", data="aGk=")
    message = ChatMessage(role="user", content="x", images=(image,))
    seen = ChatRequest(model="owl", messages=(message,), max_output_tokens=1)
    blind = seen.model_copy(update={"messages": (message.model_copy(update={"images": ()}),)})
    assert prompt_tokens_bound(seen, 4096) == 4096
    assert usual_prompt_tokens(seen, 0.3, 4096) > usual_prompt_tokens(blind, 0.3, 4096) + 500


def test_bound_counts_the_tools() -> None:
    plain = ChatRequest(model="owl", messages=(ChatMessage(role="user", content="x"),), max_output_tokens=1)
    tool = Tool(name="dim", description="Dims the light.", parameters={"type": "object"})
    with_tool = plain.model_copy(update={"tools": (tool,)})
    assert prompt_tokens_bound(with_tool, 10**6) > prompt_tokens_bound(plain, 10**6) + 500


def test_prompt_is_refused_only_when_it_cannot_fit() -> None:
    fits = ChatRequest(model="owl", prompt=" " * 128 * 128, mode="completion", max_output_tokens=1)
    check_context(fits, OWL)
    with pytest.raises(CallboardError) as caught:
        check_context(fits.model_copy(update={"prompt": fits.prompt + " "}), OWL)
    assert (caught.value.info.code, caught.value.info.param) == (ErrorCode.CONTEXT_LENGTH_EXCEEDED, "prompt")


@pytest.mark.parametrize(
    ("limit", "kind"), [("requests_per_minute", "requests"), ("jobs_at_once", "jobs"), ("tokens_per_day", "tokens")]
)
def test_limits_are_named_after_what_they_count(limit: str, kind: str) -> None:
    headers = rate_limit_headers([LimitState(limit=limit, allowed=5, remaining=-1, resets_in_s=59.2)])
    assert headers == {
        f"x-ratelimit-limit-{kind}": "5",
        f"x-ratelimit-remaining-{kind}": "0",
        f"x-ratelimit-reset-{kind}": "1m0s",
    }
    assert rate_limit_headers([]) == {}


async def nothing(_call: object) -> object:
    raise AssertionError("no request is made here")


def route(method: str, path: str) -> Route:
    return Route(method, path, nothing, name=f"{method} {path}", summary="")  # pyright: ignore[reportArgumentType]


def test_router_finds_exact_paths_before_patterns() -> None:
    router = Router(
        [
            route("GET", "/a/{name}"),
            route("GET", "/a/fixed"),
            route("POST", "/a/{name}"),
            route("GET", "/b/{rest:path}"),
        ]
    )
    for method, path, found, params in (
        ("GET", "/a/fixed", "GET /a/fixed", {}),
        ("HEAD", "/a/fixed", "GET /a/fixed", {}),
        ("GET", "/a/x", "GET /a/{name}", {"name": "x"}),
        ("POST", "/a/x/", "POST /a/{name}", {"name": "x"}),
        ("GET", "/b/x/y", "GET /b/{rest:path}", {"rest": "x/y"}),
    ):
        match = router.find(method, path)
        assert match.route is not None
        assert (match.route.name, match.params) == (found, params)
    assert router.find("DELETE", "/a/x").methods == ("GET", "POST", "HEAD")
    assert router.find("GET", "/a/x/y").methods == ()
    with pytest.raises(ValueError, match="two routes"):
        Router([route("GET", "/a"), route("GET", "/a")])


@pytest.mark.parametrize("path", ["/a", "/a/{name}"])
def test_router_finds_the_route_for_those_that_read_a_media_type_first(path: str) -> None:
    plain, page = route("GET", path), replace(route("GET", path), media_type="text/html")
    router = Router([plain, page])
    sent = path.replace("{name}", "x")
    assert router.find("GET", sent, CIMultiDict({"Accept": "text/html,*/*"})).route is page
    assert router.find("GET", sent, CIMultiDict({"Accept": "*/*"})).route is plain
    assert router.find("GET", sent).route is plain
    assert router.find("HEAD", sent, CIMultiDict({"Accept": "text/html"})).route is plain
    with pytest.raises(ValueError, match="two routes"):
        Router([page, page])


@pytest.mark.parametrize("path", ["/a", "/a/{name}"])
def test_router_finds_the_route_for_requests_with_a_header_first(path: str) -> None:
    plain, marked = route("GET", path), replace(route("GET", path), header="x-mark")
    router = Router([plain, marked, route("POST", path)])
    sent = path.replace("{name}", "x")
    assert router.find("GET", sent, CIMultiDict({"X-Mark": "1"})).route is marked
    assert router.find("GET", sent, CIMultiDict({"Other": "1"})).route is plain
    assert router.find("GET", sent).route is plain
    assert router.find("PUT", sent).methods == ("GET", "POST", "HEAD")
    with pytest.raises(ValueError, match="two routes"):
        Router([marked, marked])
    assert Router([marked]).find("GET", sent).route is None


async def test_inbox_drops_what_does_not_fit_and_says_so() -> None:
    inbox = RequestInbox[str, str](lambda word: word if word != "bad" else None, max_messages=3, max_bytes=10)
    assert inbox.put_nowait("a", 4)
    assert inbox.put_nowait("bad", 4)
    assert not inbox.put_nowait("c", 4)
    assert inbox.lost
    await inbox.wait(5)
    assert inbox.drain() == ["a"]
    assert not inbox.lost
    assert inbox.put_nowait("d", 10)
    assert inbox.drain() == ["d"]
    await inbox.wait(0.01)


async def test_inbox_wakes_its_reader() -> None:
    inbox = RequestInbox[str, str](str, max_messages=3, max_bytes=10)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        loop.call_later(0.01, inbox.put_nowait, "a", 1)
        await inbox.wait(60)
        assert inbox.drain() == ["a"]
        loop.call_later(0.01, inbox.mark_lost)
        await inbox.wait(60)


async def test_chores_are_seen_through_and_then_ended() -> None:
    background = BackgroundTasks()
    done: list[str] = []

    async def work(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            done.append(name)
        except asyncio.CancelledError:
            done.append(f"{name} ended")
            raise

    async def broken() -> None:
        raise ValueError("a task")

    background.start(work("short", 0.01), "short")
    background.start(work("long", 60), "long")
    background.start(broken(), "broken")
    await background.close(0.1)
    assert done == ["short", "long ended"]
