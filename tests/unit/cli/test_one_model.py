"""One GGUF file in place of the configuration's models: what launch variables mean, and which file is served."""

from collections.abc import Callable
from pathlib import Path

import pytest

from callboard_cli.configuration import Configuration, read_config
from callboard_cli.failures import CommandError
from callboard_cli.up.launch import Launch, from_environment
from callboard_cli.up.one_model import OneModel
from callboard_contracts.config import Config
from tests.support.processes import toml_text

pytestmark = pytest.mark.unit

SPEECH = {
    "pools": {"booth": {"backend": "kokoro_onnx", "model_file": "kokoro-82m-int8.onnx"}},
    "models": {"kokoro": {"pool": "booth"}},
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Launch()),
        ({"KCPP_MODEL": "owl.gguf"}, Launch(model="owl.gguf")),
        (
            {
                "KCPP_ARGS": "--model /models/owl.gguf --contextsize 8192 --threads 6 --port 6001 --host 0.0.0.0 "
                "--password 'open sesame' --multiuser 20 --defaultgenamt 300 --quiet --skiplauncher --usecpu"
            },
            Launch(
                model="/models/owl.gguf",
                context_tokens=8192,
                threads=6,
                port=6001,
                host="0.0.0.0",
                password="open sesame",
                max_queued=20,
                max_output_tokens=300,
            ),
        ),
        ({"KCPP_ARGS": "owl.gguf 5002 --multiuser --gpulayers -1"}, Launch(model="owl.gguf", port=5002, max_queued=10)),
        ({"KCPP_ARGS": "--contextsize=2048"}, Launch(context_tokens=2048)),
        (
            {
                "LLAMA_ARG_MODEL": "/models/owl.gguf",
                "LLAMA_ARG_CTX_SIZE": "8192",
                "LLAMA_ARG_N_PARALLEL": "4",
                "LLAMA_ARG_THREADS": "3",
                "LLAMA_ARG_PORT": "8000",
                "LLAMA_ARG_N_PREDICT": "-1",
                "LLAMA_API_KEY": "sesame",
            },
            Launch(
                model="/models/owl.gguf",
                context_tokens=2048,
                slots=4,
                threads=3,
                port=8000,
                password="sesame",
            ),
        ),
        ({"MODEL": "/models/owl.gguf", "N_CTX": "4096"}, Launch(model="/models/owl.gguf", context_tokens=4096)),
        (
            {"EXTRA_LAUNCH_ARGS": "--listen --api --api-key sesame --model owl.gguf --ctx-size 4096 --verbose"},
            Launch(model="owl.gguf", context_tokens=4096, password="sesame"),
        ),
        (
            {"KCPP_ARGS": "--warp 9 --usevulkan 0", "KCPP_DONT_TUNNEL": "true", "LLAMA_ARG_MIRROR": "1"},
            Launch(ignored=("--warp of KCPP_ARGS", "LLAMA_ARG_MIRROR")),
        ),
        ({"KCPP_MODEL": "", "KCPP_ARGS": " "}, Launch()),
    ],
)
def test_launch_variables_mean_what_they_do_elsewhere(environ: dict[str, str], expected: Launch) -> None:
    assert from_environment({"HOME": "/", "HOST": "shell", **environ}, {}) == expected


def test_options_of_the_command_line_come_first() -> None:
    launch = from_environment({"KCPP_ARGS": "--port 5001 --contextsize 4096"}, {"port": 6000, "threads": None})
    assert (launch.port, launch.context_tokens, launch.threads) == (6000, 4096, None)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"KCPP_ARGS": "--lora x.gguf --ssl a b", "KCPP_MMPROJ": "u"}, "--lora of KCPP_ARGS, --ssl of KCPP_ARGS, KCPP"),
        ({"KCPP_ARGS": "--threads many"}, "--threads of KCPP_ARGS: found 'many', allowed are whole numbers"),
        ({"LLAMA_ARG_PORT": "80a"}, "LLAMA_ARG_PORT: found '80a'"),
        ({"KCPP_ARGS": "--port 1 2"}, "--port of KCPP_ARGS: takes one value, found 2"),
        ({"KCPP_ARGS": "--port"}, "takes one value, found 0"),
        ({"KCPP_ARGS": "a.gguf 5001 b"}, "'b' follows no flag"),
        ({"KCPP_ARGS": "--model 'a"}, "KCPP_ARGS: a quotation is not closed"),
        ({"KCPP_MODEL": "a.gguf", "LLAMA_ARG_MODEL": "b.gguf"}, "KCPP_MODEL and LLAMA_ARG_MODEL differ: 'a.gguf'"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(environ: dict[str, str], message: str) -> None:
    with pytest.raises(CommandError) as refused:
        from_environment(environ, {})
    assert message in str(refused.value)


def test_passwords_that_differ_are_not_shown() -> None:
    with pytest.raises(CommandError) as refused:
        from_environment({"KCPP_ARGS": "--password hush", "LLAMA_API_KEY": "quiet"}, {})
    assert "differ; leave one out" in str(refused.value)
    assert "hush" not in repr(refused.value) + repr(Launch(password="hush"))


Serve = Callable[..., tuple[Config, list[str]]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Makes the configuration of a site whose models are in `tmp_path/models`."""

    def configuration(launch: Launch | None = None, *names: str) -> tuple[Config, list[str]]:
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_bytes(b"GGUF" + bytes(20))
        site = {"data_dir": str(tmp_path / "var"), "model_dir": str(folder)}
        file = tmp_path / "callboard.toml"
        text = {"site": site, "edge": {"port": 5001}, "chat": {"default_model": "gone"}, "tts": SPEECH}
        file.write_text(toml_text({**text, "chat": {}}))
        (tmp_path / "var").mkdir(exist_ok=True)
        said: list[str] = []
        base = read_config(file)
        made = OneModel(launch or Launch(), folder, said.append).configuration(Configuration(base.config, file))
        assert made.path == tmp_path / "var" / "one-model.toml"
        assert made.path.stat().st_mode & 0o077 == 0
        return made.config, said

    return configuration


def test_the_only_file_of_the_folder_is_served(serve: Serve, tmp_path: Path) -> None:
    config, said = serve(
        None, "Brown-Owl-1B-Q4_K_M.gguf", "mmproj-owl.gguf", "notes.txt", "Brown-Owl-1B-00002-of-00003.gguf"
    )
    pool, model = config.chat.pools["local"], config.chat.models["brown-owl-1b"]
    assert pool.model_file == str(tmp_path / "models" / "Brown-Owl-1B-Q4_K_M.gguf")
    assert (config.chat.default_model, pool.slots, pool.threads) == ("brown-owl-1b", 2, None)
    assert (model.context_tokens, model.max_output_tokens, config.edge.port) == (4096, 1024, 5001)
    assert not config.quota.require_key
    assert said[0] == "serving Brown-Owl-1B-Q4_K_M.gguf as brown-owl-1b, 2 replies at once of 4096 tokens each"


def test_what_was_asked_for_is_configured(serve: Serve) -> None:
    launch = Launch(
        model="/models/b.gguf",
        name='o"wl',
        context_tokens=1024,
        max_output_tokens=200,
        threads=3,
        slots=1,
        max_queued=7,
        port=6000,
        host="127.0.0.2",
        password="sesame",
    )
    config, _said = serve(launch, "a.gguf", "b.gguf")
    pool, model = config.chat.pools["local"], config.chat.models['o"wl']
    assert (pool.slots, pool.threads, pool.max_queued_per_tenant) == (1, 3, 7)
    assert (model.context_tokens, model.max_output_tokens) == (1024, 200)
    assert (config.edge.host, config.edge.port, config.quota.require_key) == ("127.0.0.2", 6000, True)


def test_voices_are_offered_only_where_their_files_are(serve: Serve) -> None:
    config, said = serve(None, "a.gguf")
    assert config.tts.models == {}
    assert said[-1].startswith("no speech: kokoro-82m-int8.onnx is not in ")


@pytest.mark.parametrize(
    ("model", "names", "message"),
    [
        (None, (), "none is named; there is no *.gguf in "),
        (None, ("a.gguf", "b.gguf"), "none is named; name one of those in "),
        ("c.gguf", ("a.gguf",), "there is no file 'c.gguf'; name one of those in "),
        ("https://x/a.gguf,https://x/b.gguf", (), "found several addresses"),
        ("https://x/a.bin", (), "the address must end in .gguf"),
    ],
)
def test_a_file_that_is_not_there_is_one_line(
    serve: Serve, model: str | None, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CommandError) as refused:
        serve(Launch(model=model), *names)
    assert message in str(refused.value)
    assert all(name in str(refused.value) for name in names)


def test_a_file_of_another_kind_is_refused(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").write_bytes(b"PK\3\4")
    with pytest.raises(CommandError, match="is not a GGUF file"):
        serve(Launch(model="a.gguf"))
