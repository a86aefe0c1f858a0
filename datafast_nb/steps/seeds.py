"""Seeds: records made from configuration, such as topics × personas × languages."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.views import Block, Document, Head
from datafast_nb.records import Record
from datafast_nb.steps.base import SourceStep
from datafast_nb.steps.source_view import MAX_COLUMNS, MAX_SUMMARY, N_ROWS, rows_table


class SeedDimension(SourceStep):
    """One axis of variation, or several joined; itself a source. Rows are made when read."""

    kind = "seed"
    verb = ""
    """Name of the maker in `Seed`."""

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
        return f"{formats.number(self.size())} rows: {formats.some_names(self.names())}"

    def maker_name(self) -> str:
        """What makes such a seed: "Seed.product"."""
        return f"Seed.{self.verb}" if self.verb else type(self).__name__

    def grid(self) -> str:
        """How the number of rows comes about: "3 topic × 4 level = 12 rows"."""
        return f"{formats.number(self.size())} rows"

    def axes(self) -> Iterator[tuple[str, Iterable[Any]]]:
        """Each column with its values, in the shares in which the rows have them."""
        for name in self.names():
            yield name, (row[name] for row in self.rows())

    def first_rows(self, k: int) -> list[Record]:
        """The first `k` rows."""
        return list(islice(self.rows(), k))

    def view_head(self) -> Head:
        """First line of the card: number of rows, and what they are made of."""
        n = self.size()
        title = self._name or f"{formats.number(n)} row{'s' * (n != 1)}"
        return Head(
            formats.cell(title, formats.MAX_NAME), (f"{self.maker_name()} · {self.grid()}",)
        )

    def view_body(self) -> tuple[Block, ...]:
        """The first rows, and above each column the distribution of its values."""
        from datafast_nb.display.columns import column_of

        columns = {}
        for name, values in islice(self.axes(), MAX_COLUMNS):
            looked = list(islice(values, MAX_SUMMARY))
            made = column_of(name, looked)
            if made.spark is None:
                # Of an axis every value is as frequent as the next.
                more = "+" if len(looked) == MAX_SUMMARY else ""
                note = f"{len(looked):,}{more} value{'s' * (len(looked) != 1)}"
                made = replace(made, note=note)
            columns[name] = made
        rows = self.first_rows(N_ROWS)
        return tuple(rows_table(rows, total=self.size(), columns=columns, noun="row"))

    def view(self) -> Document:
        """Plain data for display: number of rows, what they are made of, the first of them."""
        return Document((self.view_head(), *(self.view_body() if self.size() else ())))


class _Values(SeedDimension):
    verb = "values"

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

    def maker_name(self) -> str:
        return "Seed.range" if isinstance(self.values, range) else "Seed.values"

    def grid(self) -> str:
        n = self.size()
        words = f"{formats.number(n)} value{'s' * (n != 1)} of {self.column}"
        if not isinstance(self.values, range) or not n:
            return words
        by = "" if self.values.step == 1 else f" by {self.values.step:,}"
        return f"{words}, {self.values[0]:,} to {self.values[-1]:,}{by}"

    def axes(self) -> Iterator[tuple[str, Iterable[Any]]]:
        yield self.column, self.values


class _Expand(SeedDimension):
    verb = "expand"

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

    def grid(self) -> str:
        n = self.size()
        return (
            f"{len(self.pairs):,} {self.parent} with {n:,} {self.child} in all = "
            f"{n:,} row{'s' * (n != 1)}"
        )


class _Joined(SeedDimension):
    """Several dimensions; what to do with them is in the subclasses."""

    sign = ""
    """Stands between the sizes of the dimensions."""

    def __init__(self, dimensions: tuple[SeedDimension, ...]) -> None:
        _check_dimensions(self.verb, dimensions)
        self.dimensions = list(dimensions)

    def names(self) -> list[str]:
        return [name for dimension in self.dimensions for name in dimension.names()]

    def grid(self) -> str:
        sizes = [f"{formats.number(d.size())} {' + '.join(d.names())}" for d in self.dimensions]
        n = self.size()
        total = f"{formats.number(n)} row{'s' * (n != 1)}"
        if len(sizes) == 1:
            return total
        more = [f"… +{len(sizes) - 8:,}"] if len(sizes) > 8 else []
        return f"{self.sign.join([*sizes[:8], *more])} = {total}"

    def axes(self) -> Iterator[tuple[str, Iterable[Any]]]:
        # In a product each value of an axis stands in as many rows as every other.
        for dimension in self.dimensions:
            yield from dimension.axes()

    def config(self) -> dict[str, Any]:
        """Settings of all dimensions, for fingerprints."""
        kinds = [{"kind": type(d).__name__, **d.config()} for d in self.dimensions]
        return {"join": self.verb, "dimensions": kinds}


class _Product(_Joined):
    verb = "product"
    sign = " × "

    def rows(self) -> Iterator[Record]:
        *outer, last = self.dimensions
        for start in _combine(outer):
            for row in last.rows():
                yield {**start, **row}

    def size(self) -> int:
        return math.prod(dimension.size() for dimension in self.dimensions)


class _Zip(_Joined):
    verb = "zip"
    sign = " with "

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
