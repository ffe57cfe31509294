"""Chat templates in the manner of well-known families, and the control tokens that each writes."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2


@dataclass(frozen=True, slots=True)
class Family:
    """A template in Jinja, and the texts that structure what it writes."""

    template: str
    tokens: tuple[str, ...]

    def render(self, messages: Sequence[Mapping[str, object]]) -> str:
        """The prompt for a conversation."""
        return _compiled(self.template).render(messages=messages, add_generation_prompt=True)


@functools.cache
def _compiled(template: str) -> jinja2.Template:
    environment = jinja2.Environment(autoescape=False, keep_trailing_newline=True)  # noqa: S701 - no HTML
    return environment.from_string(template)


_TURN = "{% for m in messages %}"
_END = "{% endfor %}"

FAMILIES: dict[str, Family] = {
    "chatml": Family(
        _TURN + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + _END + "<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    ),
    "llama3": Family(
        "<|begin_of_text|>"
        + _TURN
        + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
        + _END
        + "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    ),
    "llama2": Family(
        _TURN + "{% if m.role == 'system' %}<s>[INST] <<SYS>>\n{{ m.content }}\n<</SYS>>\n\n"
        "{% elif m.role == 'assistant' %} {{ m.content | trim }} </s>"
        "{% else %}<s>[INST] {{ m.content | trim }} [/INST]{% endif %}" + _END,
        ("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    ),
    "mistral": Family(
        "<s>" + _TURN + "{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
        "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content | tojson }}[/TOOL_RESULTS]"
        "{% elif m.role == 'assistant' %}{{ m.content }}</s>{% else %}[INST]{{ m.content }}[/INST]{% endif %}" + _END,
        ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_RESULTS]"),
    ),
    "gemma": Family(
        "<bos>" + _TURN + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n" + _END + "<start_of_turn>model\n",
        ("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"),
    ),
    "gemma4": Family(
        _TURN + "<|turn>{{ m.role }}\n{{ m.content | trim }}<turn|>\n" + _END + "<|turn>model\n",
        ("<|turn>", "<turn|>", "<|channel>", "<channel|>"),
    ),
    "phi": Family(
        _TURN + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n" + _END + "<|assistant|>\n",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|end|>"),
    ),
    "command": Family(
        _TURN + "<|START_OF_TURN_TOKEN|>{{ {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'}"
        ".get(m.role, '<|SYSTEM_TOKEN|>') }}{{ m.content }}<|END_OF_TURN_TOKEN|>" + _END,
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    ),
    "deepseek": Family(
        "<｜begin▁of▁sentence｜>" + _TURN + "{% if m.role == 'assistant' %}<｜Assistant｜>"
        "{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>"
        "{% else %}<｜User｜>{{ m.content }}{% endif %}" + _END + "<｜Assistant｜><think>\n",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    ),
    "granite": Family(
        _TURN + "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n" + _END,
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    ),
    "harmony": Family(
        _TURN + "<|start|>{% if m.role == 'tool' %}functions.{{ m.name }} to=assistant<|channel|>commentary"
        "{% else %}{{ m.role }}{% endif %}<|message|>{{ m.content }}<|end|>" + _END + "<|start|>assistant",
        ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|return|>", "<|call|>"),
    ),
    "exaone": Family(
        _TURN + "[|{{ m.role }}|]{{ m.content }}[|endofturn|]\n" + _END + "[|assistant|]",
        ("[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"),
    ),
    "glm": Family(
        "[gMASK]<sop>" + _TURN + "<|{{ m.role }}|>\n{{ m.content }}" + _END + "<|assistant|>\n",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>"),
    ),
    "minimax": Family(
        "]~!b[" + _TURN + "]~b]{{ m.role }}\n{{ m.content }}[e~[\n" + _END + "]~b]ai\n",
        ("]~!b[", "]~b]", "[e~["),
    ),
    "seed": Family(
        _TURN + "<seed:bos>{{ m.role }}\n{{ m.content }}<seed:eos>" + _END + "<seed:bos>assistant\n",
        ("<seed:bos>", "<seed:eos>"),
    ),
}
