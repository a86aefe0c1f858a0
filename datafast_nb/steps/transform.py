"""Steps that apply a function of the user to every record: Map, FlatMap, Filter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from operator import length_hint, not_
from typing import Any, NoReturn

from datafast_nb.display import formats
from datafast_nb.display.functions import condition_text, function_text
from datafast_nb.errors import RecordError
from datafast_nb.records import Record, Where, copy_record
from datafast_nb.steps.base import ChunkStep

_SHOWN_CHARS = 200
MAX_DESCRIBED = 80
_DICT_ONLY = frozenset({dict})
_BOOL_ONLY = frozenset({bool})

ChunkOutput = tuple[list[Any], list[int] | None, bool]


class Map(ChunkStep):
    """One record for each record: `Map(lambda r: {**r, "n_words": len(r["text"].split())})`.

    Parameters
    ----------
    fn
        Gets a copy of the record and returns the new record, a dict.
    outputs
        Columns that the function adds, so that they can be checked before a run.
    """

    def __init__(
        self, fn: Callable[[Record], Mapping[str, Any]], outputs: Sequence[str] | None = None
    ) -> None:
        self.fn = _function(type(self).__name__, fn)
        self.outputs = _outputs(outputs)

    def run_chunk(self, records: Sequence[Record], *, flat: bool, where: Where) -> ChunkOutput:
        """One new record per record; see `ChunkStep.run_chunk`."""
        out = _call(self.fn, records, flat, where)
        if not _DICT_ONLY.issuperset(map(type, out)):
            for i, new in enumerate(out):
                if not isinstance(new, Mapping):
                    _refuse_map_result(new, where(i))
        return out, None, True

    def describe(self) -> str:
        """The function: its name, or the lambda as it was written."""
        return formats.cell(function_text(self.fn), MAX_DESCRIBED)


class FlatMap(ChunkStep):
    """Any number of records for each record: `FlatMap(lambda r: [{"q": q} for q in r["qs"]])`.

    Parameters
    ----------
    fn
        Gets a copy of the record and returns dicts: a list, a generator, any iterable.
    outputs
        Columns that the function adds, so that they can be checked before a run.
    """

    def __init__(
        self,
        fn: Callable[[Record], Iterable[Mapping[str, Any]]],
        outputs: Sequence[str] | None = None,
    ) -> None:
        self.fn = _function(type(self).__name__, fn)
        self.outputs = _outputs(outputs)

    def run_chunk(self, records: Sequence[Record], *, flat: bool, where: Where) -> ChunkOutput:
        """All new records, in the order of their parents; see `ChunkStep.run_chunk`."""
        fn = self.fn
        copy: Callable[[Record], Record] = dict if flat else copy_record
        out: list[Any] = []
        parents: list[int] = []
        i = -1
        try:
            for i, record in enumerate(records):
                result = fn(copy(record))
                if type(result) is not list:
                    result = _iterable(result, where(i))
                start = len(out)
                for new in result:
                    if type(new) is not dict and not isinstance(new, Mapping):
                        raise RecordError(
                            f"{where(i)}: the function of FlatMap gave {_show(new)} among its "
                            "records; every one is a dict of column names to values"
                        )
                    out.append(new)
                parents.extend([i] * (len(out) - start))
        except RecordError:
            raise
        except Exception as exc:
            _explain(exc, records[i], where(i))
            raise
        return out, parents, True

    def describe(self) -> str:
        """The function: its name, or the lambda as it was written."""
        return formats.cell(function_text(self.fn), MAX_DESCRIBED)


class Filter(ChunkStep):
    """The records for which the function says yes: `Filter(lambda r: len(r["text"]) > 100)`.

    Parameters
    ----------
    fn
        Gets a copy of the record; its answer is taken as `bool()` takes it.
    where, expr
        Conditions written as data or text; not in this version.
    keep
        False: drop the records for which the function says yes, keep the others.
    """

    outputs = ()

    def __init__(
        self,
        fn: Callable[[Record], Any] | None = None,
        where: Mapping[str, Any] | None = None,
        expr: str | None = None,
        keep: bool = True,
    ) -> None:
        for name, value in (("where", where), ("expr", expr)):
            if value is not None:
                raise ValueError(
                    f"Filter takes fn= in this version, not {name}=; write the condition as a "
                    'function, such as Filter(lambda r: r["score"] >= 7)'
                )
        if fn is None:
            raise ValueError('Filter needs a function: Filter(lambda r: r["score"] >= 7)')
        self.fn = _function("Filter", fn)
        self.keep = bool(keep)

    def run_chunk(self, records: Sequence[Record], *, flat: bool, where: Where) -> ChunkOutput:
        """The records that stay, themselves; see `ChunkStep.run_chunk`."""
        answers = _call(self.fn, records, flat, where)
        if not _BOOL_ONLY.issuperset(map(type, answers)):
            answers = [_truth(answer, where, i) for i, answer in enumerate(answers)]
        if not self.keep:
            answers = list(map(not_, answers))
        out = list(compress(records, answers))
        parents = list(compress(range(len(records)), answers))
        return out, parents, False

    def describe(self) -> str:
        """What is kept or dropped, by the function's name, or what its lambda says."""
        said = condition_text(self.fn) or _function_name(self.fn)
        return f"{'keep' if self.keep else 'drop'} where {formats.cell(said, MAX_DESCRIBED)}"


def _call(
    fn: Callable[[Record], Any], records: Sequence[Record], flat: bool, where: Where
) -> list[Any]:
    """What the function gives for a copy of each record; its error names the record."""
    left = iter(records)
    copy: Callable[[Record], Record] = dict.copy if flat else copy_record
    try:
        # No line of Python per record but the function's own: this runs a million times.
        return [fn(record) for record in map(copy, left)]
    except RecordError:
        raise
    except Exception as exc:
        i = len(records) - length_hint(left) - 1
        _explain(exc, records[i], where(i))
        raise


def _function(step: str, fn: Any) -> Callable[[Record], Any]:
    if not callable(fn):
        hint = ""
        if isinstance(fn, Mapping):
            hint = ' Write the dict inside a function: lambda r: {**r, "new": 1}'
        raise TypeError(f"{step} takes a function of one record, not {_show(fn)}.{hint}")
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(
            f"{step} takes a plain function; {_function_name(fn)} is async and would not be awaited"
        )
    return fn  # type: ignore[no-any-return]  # `callable` tells mypy nothing of the result


def _outputs(outputs: Any) -> list[str] | None:
    if outputs is None:
        return None
    if isinstance(outputs, str) or not all(isinstance(name, str) for name in outputs):
        raise TypeError(f"outputs= is a list of column names, not {outputs!r}")
    return list(outputs)


def _function_name(fn: Any) -> str:
    name = getattr(fn, "__name__", type(fn).__name__)
    return "lambda" if name == "<lambda>" else str(name)


def _refuse_map_result(result: Any, place: str) -> NoReturn:
    if result is None:
        hint = (
            "return the record at the end; r.update(...) changes it and returns None, "
            'write {**r, "new": value}'
        )
    elif hasattr(result, "model_dump"):
        hint = "return its .model_dump()"
    elif isinstance(result, (list, tuple, Iterator)):
        hint = "for several records per record use FlatMap"
    else:
        hint = 'return the whole record, such as {**r, "new": value}'
    raise RecordError(
        f"{place}: the function of Map returned {_show(result)}, not a record (a dict); {hint}"
    )


def _iterable(result: Any, place: str) -> Iterable[Any]:
    if isinstance(result, (Mapping, str, bytes)) or not isinstance(result, Iterable):
        hint = "for one record per record use Map, or return [record]"
        if result is None:
            hint = "return a list at the end, [] for no record"
        raise RecordError(
            f"{place}: the function of FlatMap returned {_show(result)}, "
            f"not a list of records; {hint}"
        )
    return result


def _truth(answer: Any, where: Where, index: int) -> bool:
    # One-element arrays have a truth value, longer ones raise: both are a mistake here.
    if getattr(answer, "ndim", 0) or inspect.iscoroutine(answer):
        raise RecordError(
            f"{where(index)}: the function of Filter returned {_show(answer)}, not yes or no; "
            "reduce it with .any() or .all()"
        )
    return bool(answer)


def _explain(exc: Exception, record: Record, place: str) -> None:
    exc.add_note(formats.printable(f"in {place}"))
    exc.add_note(f"record: {_start_of(record)}")
    key = exc.args[0] if isinstance(exc, KeyError) and exc.args else None
    if isinstance(key, str) and key not in record:
        from difflib import get_close_matches

        near = get_close_matches(key, record, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        here = formats.printable(", ".join(record)) or "none"
        exc.add_note(f"columns here: {here}.{hint}")


def _start_of(record: Record) -> str:
    parts: list[str] = []
    length = 0
    for name, value in record.items():
        part = f"{name!r}: {_short(value)}"
        length += len(part)
        if length > _SHOWN_CHARS and parts:
            parts.append(f"… {len(record) - len(parts)} more columns")
            break
        parts.append(part)
    return "{" + ", ".join(parts) + "}"


def _show(value: Any) -> str:
    return f"{_short(value)} ({type(value).__name__})"


def _short(value: Any) -> str:
    """`repr`, cut; a long text is cut first, as its whole repr may be megabytes."""
    text = repr(value[:81]) if isinstance(value, (str, bytes)) else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
