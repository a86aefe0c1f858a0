"""Pipelines as Python: what a user would type to build this one.

Settings that have a text of their own are written, functions by their names or as the lambda that
was typed. What lives in memory only, as a large list or a client, gets a name and a comment.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.functions import function_text
from datafast_nb.models.base import Model
from datafast_nb.models.fake import FakeModel
from datafast_nb.models.remote import RemoteModel
from datafast_nb.models.wire import Secret
from datafast_nb.steps.base import Step
from datafast_nb.steps.expansion import as_model
from datafast_nb.steps.jsonl import JsonlSink
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.sampling import Sample
from datafast_nb.steps.seeds import SeedDimension
from datafast_nb.steps.sinks import CsvSink, ListSink, ParquetSink
from datafast_nb.steps.sources import FileSource
from datafast_nb.steps.tables import FrameSource, ListSource
from datafast_nb.steps.transform import Filter, FlatMap, Map
from datafast_nb.trace import ResultSource

if typing.TYPE_CHECKING:
    from datafast_nb.pipeline import Pipeline

MAX_RECORDS = 20
MAX_LITERAL = 4_000
"""Characters of records, or of another value, that are written out."""
_SECRET = frozenset({"api_key", "client", "headers", "price", "self"})
_INDENT = "    "


def pipeline_code(pipeline: Pipeline) -> str:
    """Python that builds the pipeline, as `pipeline`; made of its settings, runs nothing."""
    return Secret().redact(_Writer().pipeline(pipeline))


def call_code(name: str, arguments: Mapping[str, Any]) -> str:
    """A call with keyword arguments, those that are None left out."""
    given = [f"{k}={literal(v)}" for k, v in arguments.items() if v is not None]
    return f"{name}({', '.join(given)})"


def literal(value: Any) -> str:
    """A value as Python writes it. Raises ValueError where it has no such text."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    text = repr(value)
    try:
        same = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{type(value).__name__} has no literal") from None
    if type(same) is not type(value) or same != value:
        raise ValueError(f"{type(value).__name__} has no literal")
    return text


class _Writer:
    """Writes steps, and keeps what has to be said above them."""

    def __init__(self) -> None:
        self._missing: dict[str, str] = {}
        """Names that the reader has to define → what they stand for."""
        self._imports: set[str] = set()

    def pipeline(self, pipeline: Pipeline) -> str:
        steps = [self._step(step) for step in pipeline._whole().steps]
        if len(steps) == 1:
            body = f"pipeline = dfn.Pipeline([\n{_indented(steps[0])},\n])"
        else:
            first, *more = steps
            rest = "".join(f"\n{_indented('>> ' + step)}" for step in more)
            body = f"pipeline = (\n{_indented(first)}{rest}\n)"
        head = [*sorted(self._imports), "import datafast_nb as dfn", ""]
        notes = [f"# {name}: {said}" for name, said in self._missing.items()]
        return "\n".join([*head, *notes, *([""] if notes else []), body, ""])

    def _step(self, step: Step) -> str:
        written = self._maker(step)
        if step.is_named:
            written += f".as_step({step.name!r})"
        for name in ("input_mappings", "output_mappings"):
            if name in vars(step):
                self._missing[f"{step.name}.{name}"] = f"set it to {vars(step)[name]!r}"
        return written

    def _maker(self, step: Step) -> str:
        if isinstance(step, ListSource):
            return f"dfn.Source.list({self._records(step)})"
        if isinstance(step, FrameSource):
            name = self._name_of(step._frame, "frame", f"the DataFrame, {step.describe()}")
            return f"dfn.Source.dataframe({name})"
        if isinstance(step, ResultSource):
            name = self._name_of(step.origin, "result", f"the Result, {step.describe()}")
            return f"dfn.Pipeline.from_result({name})"
        if isinstance(step, FileSource):
            return self._call("dfn.Source.file", (step.file,), self._file(step))
        if isinstance(step, SeedDimension):
            return self._seed(step)
        if isinstance(step, (Map, FlatMap)) and type(step) in (Map, FlatMap):
            outputs = {"outputs": step.outputs} if step.outputs is not None else {}
            return self._call(f"dfn.{type(step).__name__}", (_Fn(step.fn),), outputs)
        if type(step) is Filter:
            return self._call("dfn.Filter", (_Fn(step.fn),), {} if step.keep else {"keep": False})
        if isinstance(step, Sample):
            return self._sample(step)
        if isinstance(step, LLMStep):
            own = type(step).__module__.startswith("datafast_nb.")
            maker = f"dfn.{type(step).__name__}" if own else self._class(type(step))
            return self._call(maker, (), self._changed(step), breaks=True)
        if isinstance(step, ListSink):
            return "dfn.Sink.list()"
        if isinstance(step, (JsonlSink, CsvSink, ParquetSink)):
            for kind, name in _SINKS:
                if not isinstance(step, kind):
                    continue
                more = {k: v for k, v in self._changed(step).items() if k != "path"}
                options = getattr(step, "options", {})
                return self._call(f"dfn.Sink.{name}", (step.file,), {**more, **options})
        return self._call(self._class(type(step)), (), self._changed(step))

    def _records(self, step: ListSource) -> str:
        records = step._records
        if len(records) <= MAX_RECORDS:
            try:
                lines = [literal(record) for record in records]
            except ValueError:
                lines = []
            if len(lines) == len(records) and sum(map(len, lines)) <= MAX_LITERAL:
                return (
                    "["
                    + "".join(f"\n{_INDENT}{line}," for line in lines)
                    + ("\n]" if lines else "]")
                )
        return self._name_of(records, "records", f"{len(records):,} records that were in memory")

    def _file(self, step: FileSource) -> dict[str, Any]:
        given: dict[str, Any] = {}
        try:
            derived = FileSource(step.file).format
        except ValueError:
            derived = ""
        if step.format != derived:
            given["format"] = step.format
        if step.text_column != "text":
            given["text_column"] = step.text_column
        return {**given, **step.options}

    def _seed(self, seed: SeedDimension) -> str:
        maker = f"dfn.{seed.maker_name()}"
        if hasattr(seed, "dimensions"):
            inner = [self._step(d) for d in seed.dimensions]
            return f"{maker}(" + "".join(f"\n{_indented(d)}," for d in inner) + "\n)"
        if hasattr(seed, "pairs"):
            kept = {name: getattr(seed, name) for name in ("parent", "child")}
            return self._call(maker, (*kept.values(), dict(seed.pairs)), {})
        column, values = getattr(seed, "column", None), getattr(seed, "values", None)
        if isinstance(values, range) and values.step:
            end = values.stop - (1 if values.step > 0 else -1)
            step = (values.step,) if values.step != 1 else ()
            return self._call(maker, (column, values.start, end, *step), {})
        if column is not None and values is not None:
            return self._call(maker, (column, list(values)), {})
        return self._call(self._class(type(seed)), (), self._changed(seed))

    def _sample(self, sample: Sample) -> str:
        given = self._changed(sample)
        items = given.pop("items", None)
        return self._call("dfn.Sample", () if items is None else (items,), given)

    def _changed(self, step: Any) -> dict[str, Any]:
        """Arguments that are not the defaults, from attributes of the same names."""
        found: dict[str, Any] = {}
        for name, parameter in inspect.signature(type(step).__init__).parameters.items():
            if name in ("self", "llm") or parameter.kind in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                continue
            if not hasattr(step, name):
                if parameter.default is parameter.empty and name != "path":
                    found[name] = _Unknown(f"argument {name!r} of {type(step).__name__}")
                continue
            value, default = getattr(step, name), parameter.default
            is_default = type(value) is type(default) and value == default
            if not is_default and not (default is None and value in ([], {})):
                found[name] = value
        return found

    # Values.

    def _call(
        self, maker: str, given: Sequence[Any], named: Mapping[str, Any], *, breaks: bool = False
    ) -> str:
        parts = [self._value(value) for value in given]
        parts += [f"{name}={self._value(value)}" for name, value in named.items()]
        line = f"{maker}({', '.join(parts)})"
        if not breaks and ((len(line) <= 90 and "\n" not in line) or len(parts) == 1):
            return line
        return f"{maker}(\n" + "".join(f"{_indented(part)},\n" for part in parts) + ")"

    def _value(self, value: Any) -> str:
        if isinstance(value, _Fn):
            return self._function(value.fn)
        if isinstance(value, _Unknown):
            return self._missing_name("argument", value.said)
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, Sample):
            return self._sample(value)
        if isinstance(value, Model):
            return self._model(value)
        if isinstance(value, type) or typing.get_origin(value) is not None:
            return self._type(value)
        if inspect.isroutine(value):
            return self._function(value)
        try:
            return literal(value)
        except ValueError:
            pass
        if isinstance(value, (list, tuple)):
            inner = ", ".join(map(self._value, value))
            return f"[{inner}]" if isinstance(value, list) else f"({inner},)"
        if isinstance(value, dict):
            return (
                "{"
                + ", ".join(f"{self._value(k)}: {self._value(v)}" for k, v in value.items())
                + "}"
            )
        if hasattr(value, "generate") or hasattr(value, "complete"):
            return self._name_of(value, "model", f"the model {as_model(value).name!r}")
        return self._name_of(value, "value", f"a {type(value).__name__}")

    def _function(self, fn: Any) -> str:
        said = function_text(fn)
        if said == "lambda":
            return self._missing_name("function", "a lambda whose source is gone")
        free = getattr(getattr(fn, "__code__", None), "co_freevars", ())
        if said.startswith("lambda"):
            for name in free:
                self._missing[name] = "used by a lambda; define it as it was"
            return said
        if getattr(builtins, said, None) is fn:
            return said
        if not said.isidentifier():
            return self._missing_name("function", f"a {type(fn).__name__}")
        self._missing[said] = "your function" + _where(fn)
        return said

    def _type(self, value: Any) -> str:
        origin = typing.get_origin(value)
        if origin is None:
            if value.__module__ == "builtins":
                return str(value.__name__)
            return self._class(value)
        if origin is typing.Literal:
            self._imports.add("from typing import Literal")
            return f"Literal[{', '.join(map(repr, typing.get_args(value)))}]"
        inner = [
            "None" if a is type(None) else "..." if a is ... else self._type(a)
            for a in typing.get_args(value)
        ]
        if origin is typing.Union or "Union" in str(origin):
            return " | ".join(inner)
        return f"{self._type(origin)}[{', '.join(inner)}]"

    def _class(self, cls: type) -> str:
        self._missing[cls.__name__] = f"your class{_where(cls)}"
        return cls.__name__

    def _model(self, model: Model) -> str:
        """The model; what was given to it and is secret or an object is said in a comment."""
        if type(model).__module__.startswith("datafast_nb."):
            written = self._known_model(model)
            if written is not None:
                return written
        return self._name_of(model, "model", f"the model {model.name!r} ({type(model).__name__})")

    def _known_model(self, model: Model) -> str | None:
        cls = type(model)
        given: list[Any] = []
        named: dict[str, Any] = {}
        if isinstance(model, FakeModel):
            if model.answers is not None:
                given.append(
                    _Fn(model.answers) if inspect.isroutine(model.answers) else model.answers
                )
            named = {
                k: getattr(model, k)
                for k, default in (("name", "fake"), ("provider", "fake"), ("latency_s", 0.0))
                if getattr(model, k) != default
            }
            price = model.price
            if price is not None:
                named["price"] = (price.input_per_mtok_usd, price.output_per_mtok_usd)
            return self._call("dfn.FakeModel", given, named)
        if isinstance(model, RemoteModel):
            given.append(model.name)
        try:
            parameters = inspect.signature(cls.__init__).parameters
            plain = cls(*given, **_required(parameters, model, given))
            for name in parameters:
                if name in _SECRET or name == "model_id" or not hasattr(model, name):
                    continue
                value = getattr(model, name)
                if name == "path" and value is not None:
                    value = str(value)
                if value != getattr(plain, name, None) or name in _required(
                    parameters, model, given
                ):
                    named[name] = value
            if isinstance(model, RemoteModel):
                kept = [n for n in ("client", "headers") if getattr(model, n, None)]
                if kept:
                    self._missing[model.name] = f"give the model its {' and '.join(kept)} again"
            again = cls(*given, **named)
        except Exception:  # a model that is made in a way of its own
            return None
        if again.identity() != model.identity():
            return None
        return self._call(f"dfn.{cls.__name__}", given, named)

    def _name_of(self, value: Any, word: str, said: str) -> str:
        """A name for a value: the one it has in the notebook, else one to define."""
        name = _notebook_name(value)
        if name is not None:
            self._missing[name] = f"{said}, from the notebook"
            return name
        return self._missing_name(word, said)

    def _missing_name(self, word: str, said: str) -> str:
        name, n = word, 1
        while name in self._missing:
            n += 1
            name = f"{word}_{n}"
        self._missing[name] = f"{said}; it has no text here, define it first"
        return name


_SINKS = ((JsonlSink, "jsonl"), (CsvSink, "csv"), (ParquetSink, "parquet"))


class _Fn:
    def __init__(self, fn: Any) -> None:
        self.fn = fn


class _Unknown:
    def __init__(self, said: str) -> None:
        self.said = said


def _required(parameters: Mapping[str, Any], model: Model, given: Sequence[Any]) -> dict[str, Any]:
    names = [n for n, p in parameters.items() if p.default is p.empty and n != "self"]
    return {n: getattr(model, n) for n in names[len(given) :] if hasattr(model, n)}


def _text(value: str) -> str:
    """A text; over several lines where it has several."""
    lines = value.splitlines(keepends=True)
    if len(lines) < 2:
        return repr(value)
    return "(\n" + "".join(f"{_INDENT}{line!r}\n" for line in lines) + ")"


def _indented(text: str) -> str:
    return "\n".join(_INDENT + line if line else line for line in text.split("\n"))


def _where(thing: Any) -> str:
    module = getattr(thing, "__module__", "") or ""
    if module in ("__main__", "builtins", ""):
        return ", from the notebook"
    return formats.cell(f", from {module}", 80)


def _notebook_name(value: Any) -> str | None:
    """The name that a value has in the notebook; None where it has none."""
    import sys

    shell = sys.modules.get("IPython")
    known = shell.get_ipython() if shell is not None else None
    names: Mapping[str, Any] = known.user_ns if known is not None else {}
    if value is None:
        return None
    return next((n for n, v in list(names.items()) if v is value and not n.startswith("_")), None)
