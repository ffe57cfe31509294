"""The prompts of `/v1/completions`: a text, tokens, or several of either."""

from collections.abc import Sequence
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.model_inquiries import ModelQuestions
from callboard_edge.protocols.openai.bodies import CompletionBody
from callboard_edge.protocols.openai.choices import MAX_JOBS
from callboard_edge.protocols.openai.local import LocalCompletionBody

GREATEST_TOKEN = 2**32 - 1

Tokens = list[int]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Reads prompts of tokens, with the help of the model's workers."""

    questions: ModelQuestions
    admission: Admission

    async def read(self, prompts: Sequence[str | Tokens], model: ChatModel, caller: Caller) -> list[str]:
        """The texts of some prompts.

        Raises:
            CallboardError: the engine does not tell the text of tokens, or no worker answers.
        """
        if all(isinstance(one, str) for one in prompts):
            return [one for one in prompts if isinstance(one, str)]
        # Nothing is held for this work, so that it is done for nobody who may not ask for more.
        if caller.key_digest is not None:
            await self.admission.identify(caller)
        try:
            # What the engine itself puts before every prompt is not wanted twice.
            start = list((await self.questions.tokens(model, "")).ids)
            return [one if isinstance(one, str) else await self._text(one, start, model) for one in prompts]
        except CallboardError as error:
            if error.info.code is ErrorCode.UNSUPPORTED:
                raise unsupported("This model's engine takes no tokens; send text.", "prompt") from None
            raise CallboardError.of(error.info.model_copy(update={"param": "prompt"})) from None

    async def _text(self, tokens: Tokens, start: Tokens, model: ChatModel) -> str:
        if start and tokens[: len(start)] == start:
            tokens = tokens[len(start) :]
        return await self.questions.text(model, tokens) if tokens else ""


def texts_of(body: CompletionBody | LocalCompletionBody, written: int) -> list[str | Tokens]:
    """The prompts of a request, each of which is answered so many times.

    Raises:
        CallboardError: they are none, too many, or of another kind.
    """
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if isinstance(body.prompt, list) and body.prompt and all(map(_is_token, body.prompt)):
        prompts = [body.prompt]
    found: list[str | Tokens] = []
    for prompt in prompts:
        if isinstance(prompt, list) and all(map(_is_token, prompt)):
            found.append([int(token) for token in prompt])
        elif isinstance(prompt, str):
            found.append(prompt)
    if not prompts or len(found) < len(prompts) or len({type(one) for one in found}) > 1:
        raise _invalid("'prompt' must be a text or tokens, or a list of texts or of lists of tokens.")
    if len(found) * written > MAX_JOBS:
        raise _invalid(f"A request may have at most {MAX_JOBS} continuations; this one has {len(found) * written}.")
    memory = body.memory if isinstance(body, LocalCompletionBody) else ""
    if not all(found) and not memory:
        raise _invalid("'prompt' must not be empty.")
    return found


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= GREATEST_TOKEN


def _invalid(message: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param="prompt")
