"""Seeds: records made from configuration, such as topics × personas × languages."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from datafast_nb.records import Record
from datafast_nb.steps.base import SourceStep


class SeedDimension(SourceStep):
    """One axis of variation, or several joined; itself a source. Rows are made when read."""

    kind = "seed"

    def rows(self) -> Iterator[Record]:
        """All rows from the start, one at a time, each a new dict."""
        raise NotImplementedError

    def size(self) -> int:
        """Number of rows, without making them."""
        raise NotImplementedError

    def names(self) -> list[str]:
        """Columns of every row, in order."""
        raise NotImplementedError

    def read(self, chunk: int) -> Iterator[Sequence[Record]]:
        """Rows in pieces of at most `chunk`, made on the way."""
        rows = self.rows()
        while piece := list(islice(rows, chunk)):
            yield piece

    def count(self) -> int:
        """Number of rows, without making them."""
        return self.size()

    def columns(self) -> list[str]:
        """Columns of every row, in order."""
        return self.names()

    def place(self, index: int) -> str:
        """Name row `index` for errors."""
        return f"seed row {index}"

    def describe(self) -> str:
        """One short line: number of rows and columns."""
        return f"{self.size():,} rows: {', '.join(self.names())}"


class _Values(SeedDimension):
    def __init__(self, column: str, values: Sequence[Any]) -> None:
        self.column = column
        self.values = values

    def rows(self) -> Iterator[Record]:
        column = self.column
        return ({column: value} for value in self.values)

    def size(self) -> int:
        values = self.values
        # len() of a range stops at the machine's word size.
        return _range_size(values) if isinstance(values, range) else len(values)

    def names(self) -> list[str]:
        return [self.column]


class _Expand(SeedDimension):
    def __init__(self, parent: str, child: str, pairs: list[tuple[Any, list[Any]]]) -> None:
        self.parent = parent
        self.child = child
        self.pairs = pairs

    def rows(self) -> Iterator[Record]:
        for value, children in self.pairs:
            for child in children:
                yield {self.parent: value, self.child: child}

    def size(self) -> int:
        return sum(len(children) for _, children in self.pairs)

    def names(self) -> list[str]:
        return [self.parent, self.child]


class _Joined(SeedDimension):
    """Several dimensions; what to do with them is in the subclasses."""

    verb = ""

    def __init__(self, dimensions: tuple[SeedDimension, ...]) -> None:
        _check_dimensions(self.verb, dimensions)
        self.dimensions = list(dimensions)

    def names(self) -> list[str]:
        return [name for dimension in self.dimensions for name in dimension.names()]

    def config(self) -> dict[str, Any]:
        """Settings of all dimensions, for fingerprints."""
        kinds = [{"kind": type(d).__name__, **d.config()} for d in self.dimensions]
        return {"join": self.verb, "dimensions": kinds}


class _Product(_Joined):
    verb = "product"

    def rows(self) -> Iterator[Record]:
        *outer, last = self.dimensions
        for start in _combine(outer):
            for row in last.rows():
                yield {**start, **row}

    def size(self) -> int:
        return math.prod(dimension.size() for dimension in self.dimensions)


class _Zip(_Joined):
    verb = "zip"

    def __init__(self, dimensions: tuple[SeedDimension, ...]) -> None:
        super().__init__(dimensions)
        if len({dimension.size() for dimension in dimensions}) > 1:
            lengths = ", ".join(f"{' + '.join(d.names())}: {d.size():,}" for d in dimensions)
            raise ValueError(
                f"Seed.zip pairs rows one by one and needs equal lengths; here are {lengths}. "
                "For all combinations use Seed.product"
            )

    def rows(self) -> Iterator[Record]:
        for parts in zip(*(dimension.rows() for dimension in self.dimensions), strict=True):
            row: Record = {}
            for part in parts:
                row.update(part)
            yield row

    def size(self) -> int:
        return self.dimensions[0].size()


class Seed:
    """Makers of seeds."""

    @staticmethod
    def values(column: str, values: Iterable[Any]) -> SeedDimension:
        """One row per value, in order; repeated values stay repeated."""
        return _Values(_column(column), _value_list(f"the values of {column!r}", values))

    @staticmethod
    def expand(parent: str, child: str, mapping: Mapping[Any, Iterable[Any]]) -> SeedDimension:
        """One row per child, with its parent: `{"Physics": ["Quantum", "Optics"]}` gives two."""
        if _column(parent) == _column(child):
            raise ValueError(f"Seed.expand needs two column names, got {parent!r} twice")
        if not isinstance(mapping, Mapping):
            raise TypeError(
                f"Seed.expand takes a dict of parent to list of children, "
                f"not {type(mapping).__name__}"
            )
        pairs = [
            (value, list(_value_list(f"the children of {value!r}", children)))
            for value, children in mapping.items()
        ]
        return _Expand(parent, child, pairs)

    @staticmethod
    def range(column: str, start: int, end: int, step: int = 1) -> SeedDimension:
        """Whole numbers from `start` to `end`, both included; counts down with a negative step."""
        first, last, by = (
            _integer(name, v) for name, v in (("start", start), ("end", end), ("step", step))
        )
        if by == 0:
            raise ValueError("Seed.range cannot count in steps of 0")
        return _Values(_column(column), builtins.range(first, last + (1 if by > 0 else -1), by))

    @staticmethod
    def product(*dimensions: SeedDimension) -> SeedDimension:
        """Every combination of the dimensions' rows; the first dimension changes slowest."""
        return _Product(dimensions)

    @staticmethod
    def zip(*dimensions: SeedDimension) -> SeedDimension:
        """First rows together, second rows together, and so on; all of equal length."""
        return _Zip(dimensions)


def _combine(dimensions: Sequence[SeedDimension]) -> Iterator[Record]:
    """Combinations made one at a time: `itertools.product` would hold every axis in memory."""
    if not dimensions:
        yield {}
        return
    *outer, last = dimensions
    for start in _combine(outer):
        for row in last.rows():
            yield {**start, **row}


def _check_dimensions(verb: str, dimensions: tuple[Any, ...]) -> None:
    if not dimensions:
        raise ValueError(f"Seed.{verb} needs at least one dimension, such as Seed.values(...)")
    owners: dict[str, int] = {}
    for position, dimension in enumerate(dimensions, start=1):
        if not isinstance(dimension, SeedDimension):
            hint = 'Seed.values("column", [...])'
            if isinstance(dimension, (list, tuple)) and any(
                isinstance(d, SeedDimension) for d in dimension
            ):
                hint = f"Seed.{verb}(*dimensions)"
            raise TypeError(
                f"dimension {position} of Seed.{verb} is a {type(dimension).__name__}; write {hint}"
            )
        for name in dimension.names():
            if name in owners:
                raise ValueError(
                    f"column {name!r} is in dimensions {owners[name]} and {position} of "
                    f"Seed.{verb}; rename one of them"
                )
            owners[name] = position


def _column(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"a column name is a non-empty string, not {name!r}")
    return name


def _value_list(what: str, values: Any) -> Sequence[Any]:
    if isinstance(values, range):
        return values
    if isinstance(values, (set, frozenset)):
        raise TypeError(f"{what} are a set, which has no fixed order; write sorted(...)")
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{what} are a list, not {type(values).__name__} ({values!r:.60})")
    return list(values)


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(
        f"{name}= of Seed.range is a whole number, not {value!r} ({type(value).__name__}); "
        "for other numbers use Seed.values"
    )


def _range_size(numbers: range) -> int:
    return max(
        0, (numbers.stop - numbers.start + numbers.step - _sign(numbers.step)) // numbers.step
    )


def _sign(number: int) -> int:
    return 1 if number > 0 else -1
