"""Makes of a request what its engine gets: turn tags replaced, and a dialogue in another form than the model's own.

The engine's own chat template is the engine's; every other form is written here, and the engine gets a raw prompt.
"""

from dataclasses import dataclass, field

from callboard_chat.domain import turn_tags
from callboard_chat.domain.control_tokens import ControlTokens
from callboard_chat.domain.front_cut import fitted, text_border
from callboard_chat.domain.models import ContextExceeded, ServedModel, format_of
from callboard_chat.domain.ports import ChatEngine
from callboard_chat.domain.prompt_formats import FORMATS, OwnTurns
from callboard_chat.domain.tool_calls import as_text
from callboard_contracts.chat import ChatRequest, PromptFormat
from callboard_contracts.prompt_size import context_of, reply_within

RATIO_STEPS_PER_UNIT = 20
"""A model's tokens for each byte are rounded up to so many parts of one, so that other workers reckon with the same."""
MAX_CUTS = 5
SHORTER = 0.75
"""How much of a text is left for another try where the engine found it too long."""


@dataclass(frozen=True, slots=True)
class RenderedRequest:
    """A request as its engine gets it.

    `is_dialogue` says whether it was messages; then `gap` stands between the opening of the reply and a reply that has
    begun, and `opens_reply` says whether the reply begins there.
    """

    request: ChatRequest
    is_dialogue: bool = False
    gap: str = ""
    opens_reply: bool = False

    def continued(self, *, has_text: bool) -> ChatRequest:
        """The request for an engine that starts, anew or after some text of the reply."""
        if not (has_text and self.gap and self.opens_reply):
            return self.request
        return self.request.model_copy(update={"prompt": self.request.prompt + self.gap})


def rendered(request: ChatRequest, model: ServedModel, engine: ChatEngine) -> RenderedRequest:
    """The request with its turns and tags written out.

    Raises:
        ContextExceeded: it has more turn tags than the context has tokens.
    """
    if request.mode == "completion":
        return RenderedRequest(_completion(request, model, engine))
    form = format_of(request, model)
    if form == "own":
        return RenderedRequest(request)
    return _dialogue(request, model, engine, form)


def turns(form: PromptFormat, model: ServedModel, engine: ChatEngine) -> OwnTurns:
    """What a form writes around turns, and the form's name where the model's own cannot be told."""
    if form == "own":
        return engine.own_turns(model.engine_model)
    return OwnTurns(FORMATS[form].texts, form)


def _completion(request: ChatRequest, model: ServedModel, engine: ChatEngine) -> ChatRequest:
    changed: dict[str, object] = {}
    if request.overflow == "drop_front" or request.context_tokens is not None:
        changed["context_tokens"] = context_of(request, model.context_tokens)
    if request.turn_tags:
        texts = turns(format_of(request, model), model, engine).texts
        memory, prompt = request.memory, request.prompt
        if turn_tags.count(memory) + turn_tags.count(prompt) > model.context_tokens:
            if request.overflow == "refuse":
                raise ContextExceeded(request, model.context_tokens)
            # Each is a token at least, so none before these can stay.
            memory, prompt = (turn_tags.last(text, model.context_tokens) for text in (memory, prompt))
        changed["memory"], changed["prompt"] = turn_tags.replaced(memory, prompt, texts)
        stop = turn_tags.replaced_stops(request.sampling.stop, texts)
        changed |= {"turn_tags": False, "sampling": request.sampling.model_copy(update={"stop": stop})}
    return request.model_copy(update=changed) if changed else request


def _dialogue(request: ChatRequest, model: ServedModel, engine: ChatEngine, form: PromptFormat) -> RenderedRequest:
    shape = FORMATS[form]
    shown = as_text(request)
    if not model.parse_special:
        shown = engine.broken_up(shown.model_copy(update={"model": model.engine_model}))
        shown = ControlTokens(shape.marks(request.messages)).broken_up(shown)
    written = shape.write(shown.messages)
    drops = request.overflow == "drop_front"
    stop = tuple(dict.fromkeys((*request.sampling.stop, *written.stop)))
    prompt = written.dialogue if drops else written.head + written.dialogue
    raw = request.model_copy(
        update={
            "mode": "completion",
            "messages": (),
            "memory": written.head if drops else "",
            "prompt": prompt,
            "tools": (),
            "sampling": request.sampling.model_copy(update={"stop": stop}),
        }
    )
    opens = request.messages[-1].role != "assistant"
    return RenderedRequest(_completion(raw, model, engine), is_dialogue=True, gap=shape.gap, opens_reply=opens)


@dataclass(slots=True)
class TextFit:
    """Cuts the prompts of one request for an engine that tells no tokens: by bytes, and shorter after a refusal."""

    tokens_per_byte: float
    _cuts: int = field(default=0, init=False)

    def cut(self, request: ChatRequest) -> ChatRequest:
        """The request with memory and prompt as one prompt, as long as may be."""
        if request.mode != "completion" or not (request.memory or request.overflow == "drop_front"):
            return request
        memory, prompt, output_tokens = request.memory, request.prompt, request.max_output_tokens
        if request.overflow == "drop_front" and request.context_tokens is not None:
            output_tokens = reply_within(output_tokens, request.context_tokens)
            room = self._characters(memory + prompt, request.context_tokens - output_tokens)
            memory, prompt = fitted(memory, prompt, room, text_border)
        return request.model_copy(update={"memory": "", "prompt": memory + prompt, "max_output_tokens": output_tokens})

    def shorten(self, request: ChatRequest) -> bool:
        """Notes that the engine found the prompt too long; returns whether a shorter one is to be tried."""
        self._cuts += 1
        return request.mode == "completion" and request.overflow == "drop_front" and self._cuts <= MAX_CUTS

    def _characters(self, text: str, tokens: int) -> int:
        per_byte = -(-self.tokens_per_byte * RATIO_STEPS_PER_UNIT // 1) / RATIO_STEPS_PER_UNIT
        bytes_per_character = len(text.encode("utf-8", "surrogatepass")) / max(1, len(text))
        return max(1, int(tokens / per_byte / max(1.0, bytes_per_character) * SHORTER**self._cuts))
