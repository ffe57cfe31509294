"""What templates write around turns is told from what they make of a dialogue."""

from typing import Any

import jinja2
import pytest

from callboard_chat.backends.llamacpp_turns import turns_of_template
from callboard_contracts.tokens import TurnTexts
from callboard_worker.engine import EngineFailed

pytestmark = pytest.mark.unit

_GEN = "{% if add_generation_prompt %}"
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are Smol.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + _GEN
    + "<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
LLAMA3 = (
    "<|bos|>{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    + _GEN
    + "<|start|>assistant<|end|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise('no') }}{% endif %}"
    "{% if m.role == 'user' %}<s>[INST] {{ system if loop.first }}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
GEMMA = (
    "<bos>{% if messages[0].role == 'system' %}{{ raise('no system') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise('no') }}{% endif %}"
    "<turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n{{ m.content | trim }}<end>\n{% endfor %}"
    + _GEN
    + "<turn>model\n{% endif %}"
)
GEMMA_WITH_SYSTEM = (
    "<bos>{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n{{ m.content }}"
    "{{ '\n' if m.role == 'system' else '<end>\n' }}{% endfor %}" + _GEN + "<turn>model\n{% endif %}"
)
ALWAYS_OPENS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def texts(system: tuple[str, str], user: tuple[str, str], assistant: tuple[str, str], generation: str) -> TurnTexts:
    return TurnTexts(
        system_start=system[0],
        system_end=system[1],
        user_start=user[0],
        user_end=user[1],
        assistant_start=assistant[0],
        assistant_end=assistant[1],
        assistant_gen=generation,
    )


async def turns(template: str, start: str = "", end: str = "") -> TurnTexts | None:
    def fail(_reason: str) -> str:
        raise jinja2.TemplateError

    environment = jinja2.Environment(autoescape=False, keep_trailing_newline=True)  # noqa: S701 - no HTML

    async def render(fields: dict[str, Any]) -> str:
        try:
            return environment.from_string(template).render(**fields, **{"raise": fail})
        except jinja2.TemplateError:
            raise EngineFailed from None

    return await turns_of_template(render, start, end)


@pytest.mark.parametrize(
    ("template", "start", "end", "expected"),
    [
        (
            CHATML,
            "",
            "<|im_end|>",
            texts(
                ("<|im_start|>system\n", "<|im_end|>\n"),
                ("<|im_start|>user\n", "<|im_end|>\n"),
                ("<|im_start|>assistant\n", "<|im_end|>\n"),
                "<|im_start|>assistant\n<think>\n\n</think>\n\n",
            ),
        ),
        (
            LLAMA3,
            "<|bos|>",
            "<|eot|>",
            texts(
                ("<|start|>system<|end|>\n\n", "<|eot|>"),
                ("<|start|>user<|end|>\n\n", "<|eot|>"),
                ("<|start|>assistant<|end|>\n\n", "<|eot|>"),
                "<|start|>assistant<|end|>\n\n",
            ),
        ),
        (
            GEMMA,
            "<bos>",
            "<end>",
            texts(
                ("<turn>user\n", "<end>\n"), ("<turn>user\n", "<end>\n"), ("<turn>model\n", "<end>\n"), "<turn>model\n"
            ),
        ),
        (
            GEMMA_WITH_SYSTEM,
            "<bos>",
            "<end>",
            texts(("<turn>user\n", "\n"), ("<turn>user\n", "<end>\n"), ("<turn>model\n", "<end>\n"), "<turn>model\n"),
        ),
        (
            ALWAYS_OPENS,
            "",
            "<|im_end|>",
            texts(
                ("<|im_start|>system\n", "<|im_end|>\n"),
                ("<|im_start|>user\n", "<|im_end|>\n"),
                ("<|im_start|>assistant\n", "<|im_end|>\n"),
                "<|im_start|>assistant\n",
            ),
        ),
        (
            LLAMA2,
            "<s>",
            "</s>",
            texts(("<<SYS>>\n", "\n<</SYS>>\n\n"), ("[INST] ", ""), (" [/INST] ", " </s><s>"), " [/INST]"),
        ),
    ],
)
async def test_templates_tell_their_turns(template: str, start: str, end: str, expected: TurnTexts) -> None:
    assert await turns(template, start, end) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise('always') }}",
        "{{ messages | length }} messages",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages | reverse %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}<{{ m.role }}>" + "x" * 300 + "{{ m.content }}</{{ m.role }}>{% endfor %}",
        "{% for m in messages %}<{{ loop.index }}>{{ m.content }}</{{ m.role }}{{ loop.index }}>{% endfor %}",
    ],
)
async def test_turns_that_cannot_be_told_are_not(template: str) -> None:
    assert await turns(template, "", "</s>") is None
