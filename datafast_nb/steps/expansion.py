"""How an LLM step expands: what its list and Sample parameters hold, and the ways of asking."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datafast_nb.models.base import Message, Model
from datafast_nb.steps.prompts import Template
from datafast_nb.steps.sampling import Sample
from datafast_nb.store.memo import RequestKeys

# ISO 639-1 codes whose English names may stand in for {language_name}; other codes stand for themselves.
LANGUAGE_NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "th": "Thai", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


@dataclass(slots=True)
class Variant:
    """One way in which a step asks: one prompt, model, language and temperature."""

    index: int
    """Place in the expansion: prompts × models × languages × temperatures."""
    prompt_index: int
    prompt: Template
    system: Template | None
    model: Model
    language: str | None
    language_name: str | None
    temperature: float | None
    keys: RequestKeys
    columns: dict[str, Any]
    """Bookkeeping columns of its outputs."""
    examples: tuple[Message, ...]
    choice: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def is_deterministic(self) -> bool:
        """At temperature 0 every draw is the same draw."""
        return self.temperature == 0


@dataclass(slots=True)
class PlanCounter:
    """Ranks among equal records, for parameters that are sampled per record."""

    seen: dict[str, int] = field(default_factory=dict)


def as_model(value: Any) -> Model:
    """A model from what the user gave: a Model, or an object with `generate`.

    Raises TypeError for anything else.
    """
    if isinstance(value, Model):
        return value
    if hasattr(value, "generate") or hasattr(value, "complete"):
        from datafast_nb.models.adapted import AdaptedModel

        return AdaptedModel(value)
    raise TypeError(
        f"model is {value!r:.60} ({type(value).__name__}); give a model such as "
        "OpenAIModel('gpt-4o-mini') or LocalModel()"
    )


def parameter_items(name: str, value: Any) -> list[Any]:
    """Items of a parameter: of a Sample, of a list, or the one value. Raises ValueError if none."""
    if isinstance(value, Sample):
        if value.is_step:
            raise ValueError(f"{name}=Sample(...) has no items; write Sample([a, b, c], n=1)")
        items = list(value.items or ())
        if name == "language" and isinstance(value.items, Mapping):
            return list(value.items.items())
    elif isinstance(value, (list, tuple)):
        items = list(value)
    else:
        items = [value]
    if not items:
        raise ValueError(f"{name} is an empty list")
    return items


def language_pairs(language: Any) -> list[tuple[str, str]]:
    """(code, name) of each language; [] where none is set."""
    if language is None:
        return []
    if isinstance(language, Mapping):
        pairs = [(str(code), str(name)) for code, name in language.items()]
    else:
        pairs = []
        for item in parameter_items("language", language):
            if isinstance(item, tuple):
                pairs.append((str(item[0]), str(item[1])))
            else:
                pairs.append((str(item), LANGUAGE_NAMES.get(str(item), str(item))))
    if not pairs:
        raise ValueError("language is empty")
    return pairs


def temperature_list(value: Any) -> list[float | None]:
    """Temperatures as a list. Raises ValueError for what is no temperature."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise ValueError("temperature is an empty list")
    for t in items:
        if t is not None and (
            isinstance(t, bool) or not isinstance(t, (int, float)) or not 0 <= t < math.inf
        ):
            raise ValueError(f"temperature is {t!r}; use a number of 0 or more, or None")
    return [None if t is None else float(t) for t in items]


def positive_int(name: str, value: Any, *, optional: bool = False) -> int | None:
    """The value, checked to be a whole number of 1 or more. Raises ValueError."""
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; use a whole number of 1 or more")
    return value


def name_list(parameter: str, value: Sequence[str] | None) -> list[str] | None:
    """Column names as a list; None stays None. Raises TypeError."""
    if value is None:
        return None
    if isinstance(value, str):
        return [value]
    names = list(value)
    if not all(isinstance(n, str) for n in names):
        raise TypeError(
            f"{parameter} is a list of column names, not {json.dumps(names, default=str)}"
        )
    return names
