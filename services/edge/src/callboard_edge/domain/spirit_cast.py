"""Who answers a question to the spirit box, and in which voice."""

from dataclasses import dataclass

from callboard_contracts.speech import SpeechRequest
from callboard_contracts.spirit_box import SpiritBoxSection
from callboard_edge.domain.catalogue import Catalogue, ChatModel, M, SpeechModel
from callboard_edge.domain.languages import voice_for_language
from callboard_edge.domain.offers import Offer
from callboard_edge.domain.workers import Workers


@dataclass(frozen=True, slots=True)
class Cast:
    """The models of an answer, and its voice."""

    chat: ChatModel
    speech: SpeechModel
    spoken: SpeechRequest
    language: str


def cast_for(offer: Offer, workers: Workers, settings: SpiritBoxSection, heard: str | None) -> Cast:
    """Who answers and in which voice: one that speaks the question's language, else the fallback's."""
    chat = chosen(offer.chat_models, settings.chat_model)
    speech = chosen(offer.speech_models, settings.speech_model)
    catalog, offered = speech.catalog(workers), workers.model("tts", speech.pool, speech.name)
    voices = [one for one in offered.voices if catalog.offers(one.name)] if offered is not None else []
    usual = settings.voice
    if usual is None and chat.character is not None and catalog.can_speak(chat.character):
        usual = chat.name
    usual_voice = catalog.resolve(usual)
    language, voice = settings.fallback_language, usual_voice
    for wanted in dict.fromkeys((heard or language, language)):
        own = settings.form_of(wanted).voice
        found = catalog.resolve(own) if own else voice_for_language(voices, wanted, usual_voice)
        # Where no worker says what its voices speak, the usual one is taken to speak everything.
        if found is not None or not voices:
            language, voice = wanted, found or usual_voice
            break
    words = catalog.words_of(usual)
    spoken = SpeechRequest(model=speech.name, text="", voice=voice, words=words)
    return Cast(chat, speech, spoken, language)


def chosen(models: Catalogue[M], name: str | None) -> M:
    """The model that the site chose for spirits, else the default, else the first."""
    return models.resolve(name or models.default or next(iter(models.names), None))
