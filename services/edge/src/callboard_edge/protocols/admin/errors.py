"""Errors of the admin API."""

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.error_objects import error_answer, error_object

_CODES = {ErrorCode.QUOTA_EXCEEDED: "rate_limit_exceeded"}


def render_error(error: CallboardError) -> web.Response:
    """An error as an answer."""
    return error_answer(error, error_object(error.info, _CODES))
