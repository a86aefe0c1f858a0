"""LLM steps: what is asked for a record, and what becomes of the answer.

A step describes: `variants` are the ways in which it asks (prompt × model × language ×
temperature), `plan` says which of them a record gets, `messages` renders, `parse` reads a
reply. Asking, waiting, retrying and remembering are the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import product
from typing import Any, ClassVar, Literal

from datafast_nb.display.views import Fact, Head
from datafast_nb.models.base import Message, Model, Request
from datafast_nb.records import Record, canonical_json
from datafast_nb.steps.base import Step
from datafast_nb.steps.expansion import (
    PlanCounter,
    Variant,
    as_model,
    language_pairs,
    name_list,
    parameter_items,
    positive_int,
    temperature_list,
)
from datafast_nb.steps.llm_view import SHOWN, llm_facts, llm_head
from datafast_nb.steps.outputs import OutputSpec, Unusable
from datafast_nb.steps.prompts import Template
from datafast_nb.steps.sampling import Sample
from datafast_nb.store.memo import RequestKeys

DEFAULT_TEMPERATURE = 0.7
BOOKKEEPING = ("_model", "_prompt_index", "_language", "_temperature", "_output_index")
LANGUAGE_FIELDS = frozenset({"language", "language_name"})
OnError = Literal["skip", "raise", "retry"]
_NOT_IN_CONFIG = frozenset(
    {
        *("spec", "fields", "models", "samples", "variants"),  # follow from the rest
        *("on_error", "max_retries", "retry_delay"),
    }
)


class LLMStep(Step):
    """Ask a model about each record; the answer becomes columns.

    Every record gets prompts × models × languages × temperatures × `num_outputs` answers,
    one output record each. A list means all of its items, a `Sample` chooses per record.

    Parameters
    ----------
    prompt
        Template with `{column}` fields; `{{` and `}}` are literal braces. A list or Sample
        of templates.
    input_columns
        Columns that the templates may use; None: whatever they name.
    output_columns
        One name: the reply's text. Several names (texts), a dict of names to types, or a
        pydantic model: the model is asked for JSON, and the reply is validated.
    model
        A model, a list or a Sample of models; `llm` is another name for it.
    temperature
        A number or list of numbers; None: the provider's default.
    max_tokens
        Most output tokens per reply. A reply that is cut there counts as failed.
    num_outputs
        Independent draws per expansion; above 1 the record says `_output_index`.
    forward_columns, exclude_columns
        Input columns to keep (default: all), or to leave out.
    language
        A code, a list of codes, a dict of codes to names, or a Sample: fills `{language}`
        and `{language_name}`.
    skip_if
        Function of the record; where true, no model is asked, the outputs are None and the
        record goes on.
    system_prompt
        Template of the system message.
    examples
        Few-shot examples: dicts with the input columns and the output columns, sent as
        earlier turns of the conversation.
    on_error
        "skip": a failed record leaves the flow and is kept in `result.errors`; "raise": the
        run stops; "retry": as skip, but unusable answers are asked again up to `max_retries`
        times.
    max_retries
        Further attempts after 429, 5xx and time-outs.
    retry_delay
        Seconds; doubles with each attempt, with jitter.
    resample
        Change the number to draw anew; change it back for the former answers.
    extra
        Further fields of the provider's request body.
    overwrite
        Allow output columns that the records already have.
    """

    kind: ClassVar[str] = "llmstep"

    def __init__(
        self,
        prompt: str | Sequence[str] | Sample,
        input_columns: Sequence[str] | None = None,
        output_columns: Any = None,
        model: Any = None,
        *,
        llm: Any = None,
        temperature: float | Sequence[float] | None = DEFAULT_TEMPERATURE,
        max_tokens: int | None = 1024,
        top_p: float | None = None,
        num_outputs: int = 1,
        forward_columns: Sequence[str] | None = None,
        exclude_columns: Sequence[str] | None = None,
        language: str | Sequence[str] | Mapping[str, str] | Sample | None = None,
        skip_if: Callable[[Record], Any] | None = None,
        system_prompt: str | None = None,
        examples: Sequence[Mapping[str, Any]] | None = None,
        on_error: OnError = "skip",
        max_retries: int = 3,
        retry_delay: float = 1.0,
        resample: int = 0,
        extra: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        if output_columns is None:
            raise TypeError("LLMStep needs output_columns: the columns that the answer fills")
        if model is not None and llm is not None:
            raise TypeError("model= and llm= are two names of one parameter: give one of them")
        if isinstance(input_columns, str):
            input_columns = [input_columns]
        self.prompt = prompt
        self.input_columns = None if input_columns is None else list(input_columns)
        self.output_columns = output_columns
        self.model = model if model is not None else llm
        self.temperature = temperature
        self.max_tokens = positive_int("max_tokens", max_tokens, optional=True)
        self.top_p = top_p
        self.num_outputs = positive_int("num_outputs", num_outputs) or 1
        self.forward_columns = name_list("forward_columns", forward_columns)
        self.exclude_columns = name_list("exclude_columns", exclude_columns)
        self.language = language
        self.skip_if = skip_if
        self.system_prompt = system_prompt
        self.examples = list(examples or [])
        self.on_error = on_error
        self.max_retries = max_retries
        self.retry_delay = retry_delay
        self.resample = resample
        self.extra = dict(extra or {})
        self.overwrite = overwrite
        if on_error not in ("skip", "raise", "retry"):
            raise ValueError(f"on_error is {on_error!r}; use 'skip', 'raise' or 'retry'")
        if not isinstance(max_retries, int) or max_retries < 0:
            raise ValueError(f"max_retries is {max_retries!r}; use 0 or more")
        if skip_if is not None and not callable(skip_if):
            raise TypeError("skip_if is a function of the record: skip_if=lambda r: not r['text']")
        if self.forward_columns is not None and self.exclude_columns is not None:
            raise ValueError("give forward_columns or exclude_columns, not both")
        self._templates = [Template(text) for text in parameter_items("prompt", prompt)]
        self._system = Template(system_prompt) if system_prompt is not None else None
        self._languages = language_pairs(language)
        self._temperatures = temperature_list(temperature)
        self.spec = OutputSpec(output_columns)

    # What the step reads and adds.

    @cached_property
    def fields(self) -> list[str]:
        """Columns that the templates read, in order of first use."""
        found: dict[str, None] = {}
        templates = [*self._templates, *([self._system] if self._system else [])]
        for template in templates:
            for name in template.fields:
                if not (self._languages and name in LANGUAGE_FIELDS):
                    found[name] = None
        return list(found)

    @cached_property
    def models(self) -> list[Model]:
        """The models that may be asked, each once; [] where none was given."""
        if self.model is None:
            return []
        return [as_model(m) for m in parameter_items("model", self.model)]

    @property
    def bookkeeping(self) -> list[str]:
        """Bookkeeping columns that this step's outputs carry."""
        names = ["_model"]
        if len(self._templates) > 1:
            names.append("_prompt_index")
        if len(self._languages) > 1:
            names.append("_language")
        if len(self._temperatures) > 1:
            names.append("_temperature")
        if self.num_outputs > 1:
            names.append("_output_index")
        return names

    def forwarded(self, columns: Sequence[str]) -> list[str]:
        """Input columns that stay, of `columns`."""
        if self.forward_columns is not None:
            return [c for c in columns if c in self.forward_columns]
        dropped = {*BOOKKEEPING, *(self.exclude_columns or ())}
        return [c for c in columns if c not in dropped]

    def describe(self) -> str:
        """Model, expansion and outputs in one line."""
        parts = [" + ".join(m.name for m in self.models) or "no model"]
        per_record = self.calls_per_record
        if per_record != 1:
            parts.append(f"{per_record} calls a record")
        parts.append("→ " + ", ".join(self.spec.columns))
        return ", ".join(parts)

    def view_head(self) -> Head:
        """First line of the card: models, columns read and written."""
        return llm_head(self, self.name)

    def view_columns(self) -> list[Fact]:
        """Prompts, models, outputs, and how many calls a record takes."""
        return llm_facts(self)

    def _is_set(self, name: str, value: Any) -> bool:
        return name not in SHOWN and super()._is_set(name, value)

    def config(self) -> dict[str, Any]:
        """Settings that decide the answers."""
        return {
            k: v for k, v in vars(self).items() if not k.startswith("_") and k not in _NOT_IN_CONFIG
        }

    @property
    def calls_per_record(self) -> int:
        """Calls for one record that is not skipped."""
        n = self.num_outputs
        for parameter, size in (
            (self.prompt, len(self._templates)),
            (
                self.model,
                max(1, len(parameter_items("model", self.model)) if self.model is not None else 1),
            ),
            (self.language, max(1, len(self._languages))),
        ):
            n *= parameter.n_draws() if isinstance(parameter, Sample) else size
        return n * len(self._temperatures)

    def expected_calls(self, record: Record) -> tuple[int, int, int]:
        """Calls for one record: fewest, likely, most."""
        n = self.calls_per_record
        return n, n, n

    # The expansion.

    @cached_property
    def variants(self) -> list[Variant]:
        """All ways of asking, in expansion order."""
        out: list[Variant] = []
        schema = self.spec.schema()
        languages: list[tuple[str, str] | None] = list(self._languages) or [None]
        keys_of: dict[tuple[int, int], RequestKeys] = {}
        self._identities = [model.identity() for model in self.models]
        books = self.bookkeeping
        axes = (self._templates, self.models, languages, self._temperatures)
        for choice in product(*(range(len(axis)) for axis in axes)):
            p, m, lang, t = choice
            model = self.models[m]
            language = languages[lang]
            if (m, t) not in keys_of:
                keys_of[m, t] = RequestKeys(
                    self._identities[m],
                    temperature=self._temperatures[t],
                    max_tokens=self.max_tokens,
                    top_p=self.top_p,
                    schema=schema,
                    extra=self.extra,
                )
            all_columns = {
                "_model": model.name,
                "_prompt_index": p,
                "_language": language[0] if language else None,
                "_temperature": self._temperatures[t],
            }
            out.append(
                Variant(
                    index=len(out),
                    prompt_index=p,
                    prompt=self._templates[p],
                    system=self._system,
                    model=model,
                    language=language[0] if language else None,
                    language_name=language[1] if language else None,
                    temperature=self._temperatures[t],
                    keys=keys_of[m, t],
                    columns={c: all_columns[c] for c in books if c in all_columns},
                    examples=self._example_turns(self._templates[p], language),
                    choice=(p, m, lang, t),
                )
            )
        return out

    def renew_keys(self) -> None:
        """Make the memo keys anew where a model's identity has changed since they were made."""
        if "variants" not in vars(self):
            return
        if [m.identity() for m in self.models] != self._identities:
            del self.variants

    @cached_property
    def samples(self) -> list[tuple[str, int, Sample]]:
        """Parameters that are sampled per record: (name, axis of the expansion, Sample)."""
        found = []
        for name, axis, value in (
            ("prompt", 0, self.prompt),
            ("model", 1, self.model),
            ("language", 2, self.language),
        ):
            if isinstance(value, Sample):
                found.append((name, axis, value))
        return found

    def token(self, record: Record, counter: PlanCounter) -> str:
        """What decides the sampled parameters of `record`; call it for the records in order.

        It is made at the first LLM step of a pipeline, of the values that its prompts use and
        the record's rank among equal ones: columns that are not used do not move it.
        """
        values = [record.get(c) for c in self.fields]
        base = blake2b(canonical_json(values), digest_size=12).hexdigest()
        rank = counter.seen.get(base, 0)
        counter.seen[base] = rank + 1
        return f"{base}-{rank}"

    def plan(self, record: Record, token: str) -> list[Variant]:
        """The variants that `record` gets.

        A sampled parameter is decided by its seed, its name, the step's outputs, the values
        that the prompts use, and `token`: it does not move when other records come or go.
        """
        samples = self.samples
        if not samples:
            return self.variants
        values = [record.get(c) for c in self.fields]
        base = blake2b(canonical_json([self.spec.columns, values]), digest_size=16).hexdigest()
        chosen: list[Sequence[int]] = [
            range(len(self._templates)),
            range(len(self.models)),
            range(max(1, len(self._languages))),
            range(len(self._temperatures)),
        ]
        for name, axis, sample in samples:
            chosen[axis] = sample.draw(f"{name}:{base}:{token}")
        sizes = [
            len(self._templates),
            len(self.models),
            max(1, len(self._languages)),
            len(self._temperatures),
        ]
        picked = []
        for p, m, lang, t in product(*chosen):
            index = ((p * sizes[1] + m) * sizes[2] + lang) * sizes[3] + t
            picked.append(self.variants[index])
        return picked

    def messages(self, record: Record, variant: Variant) -> list[Message]:
        """The conversation that asks `variant` about `record`.

        Raises KeyError for a missing column, RecordError for a value that is no text.
        """
        values: Mapping[str, Any] = record
        if variant.language is not None:
            values = {
                **record,
                "language": variant.language,
                "language_name": variant.language_name,
            }
        out: list[Message] = []
        if variant.system is not None:
            out.append({"role": "system", "content": variant.system.render(values)})
        if variant.examples:
            out.extend(variant.examples)
        out.append({"role": "user", "content": variant.prompt.render(values)})
        return out

    def request(self, messages: Sequence[Message], variant: Variant) -> Request:
        """The request with these messages."""
        return Request(
            messages=tuple(messages),
            temperature=variant.temperature,
            max_tokens=self.max_tokens,
            top_p=self.top_p,
            schema=self.spec.schema(),
            extra=self.extra,
        )

    def parse(self, text: str) -> dict[str, Any]:
        """Output values in a reply. Raises Unusable, and nothing else: the reply is paid."""
        try:
            return self.spec.parse(text)
        except Unusable:
            raise
        except Exception as exc:
            said = f"reading the reply raised {type(exc).__name__}: {exc}"
            raise Unusable("unreadable", said) from exc

    def output(
        self, record: Record, values: Mapping[str, Any], variant: Variant, output_index: int
    ) -> Record:
        """The output record of one answer."""
        out = self._kept(record)
        out.update(values)
        out.update(variant.columns)
        if self.num_outputs > 1:
            out["_output_index"] = output_index
        return out

    def skipped(self, record: Record) -> Record:
        """The record of which no model was asked: outputs None."""
        out = self._kept(record)
        for name in (*self.spec.columns, *self.bookkeeping):
            out[name] = None
        return out

    def _kept(self, record: Record) -> Record:
        if self.forward_columns is not None:
            keep = self.forward_columns
            return {k: v for k, v in record.items() if k in keep}
        out = record.copy()
        for name in BOOKKEEPING:
            if name in out:
                del out[name]
        for name in self.exclude_columns or ():
            out.pop(name, None)
        return out

    def _example_turns(
        self, template: Template, language: tuple[str, str] | None
    ) -> tuple[Message, ...]:
        turns: list[Message] = []
        for i, example in enumerate(self.examples):
            values: dict[str, Any] = dict(example)
            if language is not None:
                values.setdefault("language", language[0])
                values.setdefault("language_name", language[1])
            try:
                turns.append({"role": "user", "content": template.render(values)})
                turns.append({"role": "assistant", "content": self.spec.example_text(values)})
            except KeyError as exc:
                raise ValueError(
                    f"examples[{i}] has no {exc.args[0]!r}; an example holds the columns of the "
                    f"prompt ({', '.join(template.fields)}) and the outputs "
                    f"({', '.join(self.spec.columns)})"
                ) from None
        return tuple(turns)
