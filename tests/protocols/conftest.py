"""One deployment with stub engines for every protocol, whose edges speak the toy protocol too."""

from collections.abc import AsyncGenerator, Generator

import aiohttp
import pytest

from tests.protocols.client import new_session
from tests.protocols.tenants import ADMIN_TOKEN, Tenant, new_tenant
from tests.support.deployment import CHAT_MODEL, CHAT_POOL, HEARING_MODEL, JOB_QUEUES, TTS_POOL, Deployment, stub_config
from tests.support.processes import merged
from tests.support.stub_chat import StubChat
from tests.support.stub_speech import StubSpeech

EDGE_MODULE = "tests.protocols.edge_process"
NARROW = "wren"
"""A model whose pool has one worker with one slot."""
UNSERVED = "dodo"
"""A model whose pool never had a worker."""
MAX_QUEUED = 3
"""How many requests of one caller may wait or run."""
SHORT_DEADLINE_S = 2.0
"""The deadline of the second edge's requests."""
SPEECH_SLOTS = 2
HEARING_SLOTS = 2
MAX_SOUND_S = 10
SLOW_EAR, DEAF_EAR, FAILING_EAR = "slow-ear", "deaf-ear", "failing-ear"
"""Models that take a fifth of a second for each of a sound's, that never hear, and that hear one second of it."""
MAX_OUTPUT_TOKENS = 250
MAX_BODY_BYTES = 256 * 1024


def config(chat_url: str, speech_url: str) -> dict[str, object]:
    """Pools, models and tiers for what the suites ask."""
    pool = {"backend": "openai", "url": chat_url, "resume": "prefill", "max_queued_per_tenant": MAX_QUEUED}
    over = {
        "edge": {"admin_token": ADMIN_TOKEN, "max_body_bytes": MAX_BODY_BYTES, "request_timeout_s": 60},
        "chat": {
            "pools": {
                CHAT_POOL: pool,
                "narrow": {**pool, "slots": 1},
                "unserved": pool,
                "volunteers": {"backend": "volunteers", "max_queued_per_tenant": MAX_QUEUED},
            },
            "models": {
                "owl": {"max_output_tokens": MAX_OUTPUT_TOKENS, "embeddings": True},
                NARROW: {"pool": "narrow", "max_output_tokens": MAX_OUTPUT_TOKENS, "embeddings": True},
                UNSERVED: {"pool": "unserved"},
            },
        },
        "tts": {
            "pools": {
                TTS_POOL: {
                    "slots": SPEECH_SLOTS,
                    "utterances_at_once": SPEECH_SLOTS,
                    "max_queued_per_tenant": MAX_QUEUED,
                }
            }
        },
        "stt": {
            "pools": {"stalls": {"backend": "fake", "slots": HEARING_SLOTS, "max_queued_per_tenant": MAX_QUEUED}},
            "models": {
                HEARING_MODEL: {"pool": "stalls"},
                SLOW_EAR: {"pool": "stalls", "engine_model": "fake?latency_s=0.2"},
                DEAF_EAR: {"pool": "stalls", "engine_model": "fake?fail_segment=0"},
                FAILING_EAR: {"pool": "stalls", "engine_model": "fake?latency_s=0.2&fail_segment=1"},
            },
            "default_model": HEARING_MODEL,
            "max_upload_bytes": MAX_BODY_BYTES,
            "max_audio_s": MAX_SOUND_S,
            "hold_slice_ms": 1000,
        },
        "horde": {"submits_per_s": 0, "submits_per_minute": 0, "polls_per_minute": 0, "others_per_minute": 0},
        "kudos": {"enabled": True, "model_billions": {CHAT_MODEL: 7.0}},
        "quota": {
            "tiers": {
                "small": {"tokens_per_day": 600},
                "tiny": {"tokens_per_day": 200},
                "brief": {"heard_seconds_per_day": 5},
            }
        },
    }
    return merged(stub_config(chat_url, speech_url), over)


@pytest.fixture(scope="session")
def shared_deployment(
    tmp_path_factory: pytest.TempPathFactory, shared_chat_engine: StubChat, shared_speech_engine: StubSpeech
) -> Generator[Deployment]:
    """One of each service, two edges, a worker for the narrow pool, and one that hears."""
    table = config(shared_chat_engine.url, shared_speech_engine.url)
    deployment = Deployment(tmp_path_factory.mktemp("protocols"), table, edge_module=EDGE_MODULE, forked=True)
    try:
        deployment.start()
        others = [
            deployment.add_chat("narrow"),
            deployment.add_recogniser(),
            deployment.add_edge(edge={"request_timeout_s": SHORT_DEADLINE_S}),
        ]
        for service in others:
            service.wait_ready()
        yield deployment
        deployment.wait_idle()
        deployment.command("usage", "verify")
        deployment.stop()
    finally:
        deployment.abandon()


@pytest.fixture
def deployment(
    shared_deployment: Deployment, chat_engine: StubChat, speech_engine: StubSpeech
) -> Generator[Deployment]:
    """The shared deployment; whatever a test did, no job may be left afterwards."""
    yield shared_deployment
    shared_deployment.wait_idle(streams=JOB_QUEUES)


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession]:
    async with new_session() as one:
        yield one


@pytest.fixture
async def tenant(deployment: Deployment, session: aiohttp.ClientSession) -> Tenant:
    return await new_tenant(deployment, session)
