"""The metrics that a process serves."""

import aiohttp
import pytest

from callboard_kit.metrics import EVENT_LOOP_LAG
from callboard_kit.ops_server import OpsServer

pytestmark = pytest.mark.unit

OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}


async def page(labels: dict[str, str] | None, headers: dict[str, str] | None = None) -> tuple[str, str]:
    """The type and the text of the metrics."""
    ops = OpsServer(0, lambda: None, labels=labels)
    await ops.start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{ops.port}/metrics", headers=headers) as reply,
        ):
            return reply.content_type, await reply.text()
    finally:
        await ops.close()


async def test_every_series_has_the_labels_of_the_process() -> None:
    _, text = await page({"pool": "booth"})
    series = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all('pool="booth"' in line for line in series)
    assert 'callboard_event_loop_lag_seconds_bucket{le="0.001",pool="booth"}' in text
    _, without = await page(None)
    assert "pool=" not in without


async def test_scraper_that_asks_for_open_metrics_gets_exemplars() -> None:
    EVENT_LOOP_LAG.observe(0.0, {"trace_id": "5b8efff798038103d269b633813fc60c"})
    kind, text = await page(None, OPENMETRICS)
    assert kind == "application/openmetrics-text"
    assert text.endswith("# EOF\n")
    assert '# {trace_id="5b8efff798038103d269b633813fc60c"}' in text
    kind, text = await page(None)
    assert kind == "text/plain"
    assert "trace_id" not in text
