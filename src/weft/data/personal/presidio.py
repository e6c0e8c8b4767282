"""Presidio's pattern recognisers as a Finder: extra ``presidio``, for kinds of data of further countries.

No language model comes with it: words are their own lemmas, which its context words need, and names of
people, which take a model, are not looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.core.errors import ResourceError
from weft.data.personal.span import Span

_OURS = {
    "CREDIT_CARD": "bank_card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "MAC_ADDRESS": "mac",
    "PHONE_NUMBER": "phone",
    "US_SSN": "us_ssn",
}
_LEFT_OUT = ("URL", "DATE_TIME", "PERSON", "LOCATION", "NRP", "ORGANIZATION")
"""Not personal by themselves, or not found by patterns."""


class PresidioFinder:
    """Presidio's own recognisers and scores; spans under ``min_score`` are left out.

    Raises ResourceError when presidio-analyzer is not installed.
    """

    def __init__(self, language: str = "en", min_score: float = 0.5) -> None:
        self._language, self._min_score = language, min_score
        self._analyzer = _analyzer(language)
        entities = self._analyzer.get_supported_entities(language)
        self._entities = [name for name in entities if name not in _LEFT_OUT]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Our names where a kind is ours too, else Presidio's in small letters."""
        return tuple(sorted({_kind(name) for name in self._entities}))

    def find(self, texts: Sequence[str]) -> list[Span]:
        """Spans of the texts [N], one text at a time: it has no faster way."""
        return [
            Span(number, hit.start, hit.end, _kind(hit.entity_type), text[hit.start : hit.end])
            for number, text in enumerate(texts)
            for hit in self._analyzer.analyze(
                text, language=self._language, entities=self._entities, score_threshold=self._min_score
            )
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._language, self._min_score)


def _kind(entity: str) -> str:
    return _OURS.get(entity, entity.lower())


def _analyzer(language: str) -> Any:
    try:
        import spacy
        import tldextract
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
        from spacy.language import Language
    except ImportError as error:
        raise ResourceError(
            f"personal.presidio needs a package that is not installed ({error.name}); "
            "run pip install 'weft[presidio]'."
        ) from error

    # It would fetch its list of domains from the network; the one in its package does.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
    if not Language.has_factory("weft_lemmas"):
        Language.component("weft_lemmas", func=_lemmas)
    model = spacy.blank(language)
    model.max_length = 1 << 30
    model.add_pipe("weft_lemmas")
    engine = SpacyNlpEngine()
    engine.nlp = {language: model}
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])


def _lemmas(document: Any) -> Any:
    for token in document:
        token.lemma_ = token.lower_
    return document
