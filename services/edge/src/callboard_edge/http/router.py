"""Finds the route of a path."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from callboard_edge.http.route import Route

_NO_HEADERS: Mapping[str, str] = {}
_Methods = dict[str, list[Route]]
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Match:
    """What a path leads to: the route of the method, or where there is none the methods that the path does take."""

    route: Route | None
    params: dict[str, str]
    methods: tuple[str, ...] = ()


class Router:
    """Exact paths first, then patterns in the order in which they were given."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, _Methods] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], _Methods]] = {}
        for route in routes:
            if "{" in route.path:
                methods = self._patterns.setdefault(route.path, (_pattern(route.path), {}))[1]
            else:
                methods = self._exact.setdefault(route.path, {})
            found = methods.setdefault(route.method, [])
            if any(_condition(one) == _condition(route) for one in found):
                raise ValueError(f"two routes for {route.method} {route.path}")
            found.append(route)
            found.sort(key=lambda one: _condition(one) == (None, None))

    def find(self, method: str, path: str, headers: Mapping[str, str] = _NO_HEADERS) -> Match:
        """The route of a method and raw path; HEAD is taken where GET is, and a slash at the end is ignored.

        The path is matched as it was sent, and parameters are decoded afterwards: what an encoded slash or letter
        hides from a proxy's rules leads nowhere here.
        """
        wanted = "GET" if method == "HEAD" else method
        path = path.partition("?")[0].rstrip("/") or "/"
        accept = "" if method == "HEAD" else headers.get("Accept", "")
        methods = self._exact.get(path)
        if methods is not None:
            return _match(methods, wanted, headers, accept, {})
        for pattern, by_method in self._patterns.values():
            if match := pattern.fullmatch(path):
                params = {name: unquote(value) for name, value in match.groupdict().items()}
                return _match(by_method, wanted, headers, accept, params)
        return Match(None, {})


def _condition(route: Route) -> tuple[str | None, str | None]:
    return route.header, route.media_type


def _match(methods: _Methods, wanted: str, headers: Mapping[str, str], accept: str, params: dict[str, str]) -> Match:
    for route in methods.get(wanted, ()):
        if (route.header is None or route.header in headers) and (route.media_type or "") in accept:
            return Match(route, params)
    return Match(None, params, _names(methods))


def _names(methods: Iterable[str]) -> tuple[str, ...]:
    names = sorted(methods)
    return tuple([*names, "HEAD"] if "GET" in names else names)


def _pattern(path: str) -> re.Pattern[str]:
    expression = ""
    position = 0
    for match in _PARAMETER.finditer(path):
        expression += re.escape(path[position : match.start()])
        expression += f"(?P<{match[1]}>{'.+' if match[2] else '[^/]+'})"
        position = match.end()
    return re.compile(expression + re.escape(path[position:]))
