"""Choosing some of many: records of a table, or items of a list per record.

Every choice is decided by hashes of a seed and of what is chosen from, never by a random
generator with a state: the same input gives the same choice in any order of execution, and
the choice changes little when the input changes little.
"""

from __future__ import annotations

import math
import operator
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.settings import setting_text
from datafast_nb.display.views import (
    AnyCell,
    Block,
    Cell,
    Column,
    Fact,
    Facts,
    Head,
    Paragraph,
    Row,
    Table,
    Value,
    muted,
)
from datafast_nb.records import Record
from datafast_nb.steps.base import ChoiceStep

STEP_STRATEGIES = ("uniform", "first", "last", "systematic")
ITEM_STRATEGIES = ("uniform", "first", "last", "systematic", "weighted")
_RANDOM = ("uniform", "weighted")
_STRATEGIES = {
    "uniform": "uniform: each with the same chance",
    "first": "first: from the start",
    "last": "last: from the end",
    "systematic": "systematic: evenly spread",
    "weighted": "weighted: with chances in proportion to the weights",
}
N_ITEMS = 5


class Sample(ChoiceStep):
    """Some of the records (`Sample(n=100)`), or some items per record (`Sample(prompts, n=2)`).

    Parameters
    ----------
    items
        What to choose from where the sample stands for a parameter of an LLM step; left out in
        a step of a pipeline.
    n
        How many to choose; all, where there are fewer.
    frac
        In place of `n`: the part to choose, above 0 and up to 1, rounded to a whole number
        (of items at least one).
    strategy
        "uniform", "first", "last", "systematic" (evenly spread: every `step`-th, or `n` of
        them); for items also "weighted".
    by
        For "weighted": a list with one weight per item.
    seed
        The same seed gives the same choice. None: a fresh choice each time.
    replace
        The same one may be chosen several times.
    step
        For "systematic": the distance, from the first on.

    Notes
    -----
    Chosen records and items keep their order. As a step, "uniform" takes the `n` smallest
    hashes of seed and row identity, so a smaller sample is part of a larger one. "weighted"
    without replacement is algorithm A-ES of Efraimidis and Spirakis 2006.
    """

    kind = "sample"

    def __init__(
        self,
        items: Iterable[Any] | None = None,
        n: int | None = None,
        *,
        frac: float | None = None,
        strategy: str = "uniform",
        by: str | Callable[..., Any] | Sequence[float] | None = None,
        ascending: bool = False,
        center: float | None = None,
        std: float | None = None,
        bins: int | None = None,
        seed: int | None = 0,
        replace: bool = False,
        step: int | None = None,
    ) -> None:
        self.items = None if items is None else _item_list(items)
        self.n = None if n is None else _whole("n", n)
        self.frac = None if frac is None else _fraction(frac, replace)
        self.strategy = strategy
        self.seed = None if seed is None else _seed(seed)
        self.replace = bool(replace)
        self.step = None if step is None else _whole("step", step)
        self._check_strategy()
        self._refuse_unused(ascending=ascending, center=center, std=std, bins=bins)
        self.by = self._weights(by)

    def _check_strategy(self) -> None:
        known = STEP_STRATEGIES if self.items is None else ITEM_STRATEGIES
        if self.strategy not in known:
            what = "records" if self.items is None else "items"
            raise ValueError(
                f"Sample has no strategy {self.strategy!r} for {what}; "
                f"there are: {', '.join(known)}"
            )
        if self.n is not None and self.frac is not None:
            raise ValueError(f"give n={self.n} or frac={self.frac}, not both")
        if self.step is not None and self.strategy != "systematic":
            raise ValueError(f"step= belongs to strategy='systematic', not {self.strategy!r}")
        if self.replace and self.strategy not in _RANDOM:
            raise ValueError(f"replace=True has no meaning with strategy={self.strategy!r}")
        if self.items is None and self.n is None and self.frac is None and self.step is None:
            extra = ", or step=" if self.strategy == "systematic" else ""
            raise ValueError(
                f"say how many records to keep: Sample(n=100) or Sample(frac=0.1){extra}"
            )

    def _refuse_unused(self, **settings: Any) -> None:
        for name, value in settings.items():
            if value is not None and value is not False:
                raise ValueError(f"{name}= has no meaning with strategy={self.strategy!r}")

    def _weights(self, by: Any) -> list[float] | None:
        if self.strategy != "weighted":
            if by is not None:
                raise ValueError(f"by= has no meaning with strategy={self.strategy!r}")
            return None
        assert self.items is not None  # "weighted" exists for items only
        if by is None or callable(by) or isinstance(by, (str, Mapping)):
            raise ValueError("strategy='weighted' takes by= a list with one weight per item")
        weights = [float(w) for w in by]
        if len(weights) != len(self.items):
            raise ValueError(f"by= has {len(weights)} weights for {len(self.items)} items")
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
            raise ValueError(f"weights are numbers from 0 up, one of them above 0, not {weights}")
        return weights

    @property
    def is_step(self) -> bool:
        """Whether this samples records; False: items, as a parameter of an LLM step."""
        return self.items is None

    def choose(self, records: Sequence[Record], row_ids: Sequence[str]) -> list[int]:
        """Indices of the records that stay, ascending; `row_ids` may repeat."""
        if self.items is not None:
            raise TypeError(
                f"this Sample holds {len(self.items)} items, so it is a parameter of an LLM step; "
                "as a step of a pipeline write Sample(n=...) without items"
            )
        total = len(records)
        size = self._size(total, least=0)
        if self.strategy != "uniform":
            return self._by_position(total, size)
        if not self.replace and size >= total:
            return list(range(total))
        salt = self._salt()
        ranks: dict[str, int] = {}
        hashes = []
        for row in row_ids:
            rank = ranks.get(row, 0)
            ranks[row] = rank + 1
            hashes.append(blake2b(f"{salt}\x1f{row}\x1f{rank}".encode(), digest_size=8).digest())
        ranking = sorted(range(total), key=hashes.__getitem__)
        if self.replace:
            if not total:
                return []
            # Positions in the order of the hashes: the draws do not depend on the input order.
            return sorted(ranking[int(_unit(salt, "draw", j) * total)] for j in range(size))
        return sorted(ranking[:size])

    def needs(self) -> int | None:
        """How many records from the start decide the choice; None: all of them."""
        return self.n if self.is_step and self.strategy == "first" else None

    def draw(self, token: str) -> list[int]:
        """Indices of the items for one record, ascending; the same for the same seed and token."""
        return self._draw(token, self._size(len(self._items("draw")), least=1))

    def n_draws(self) -> int:
        """How many items `draw` gives for each record."""
        return len(self.draw(""))

    def pick(self, n: int | None = None) -> list[Any]:
        """Choose once, as a plain list to be used as a whole; with a seed the same list each time.

        `n` replaces the sample's own `n` or `frac`.
        """
        items = self._items("pick")
        size = self._size(len(items), least=1) if n is None else _whole("n", n)
        return [items[i] for i in self._draw("pick", size)]

    def _draw(self, token: str, size: int) -> list[int]:
        assert self.items is not None
        total = len(self.items)
        if self.strategy not in _RANDOM:
            return self._by_position(total, size)
        salt = self._salt()
        weights = self.by or [1.0] * total
        if self.replace:
            ends = list(accumulate(weights))
            last = max(i for i, w in enumerate(weights) if w)
            draws = (_unit(salt, token, j) * ends[-1] for j in range(size))
            return sorted(min(bisect_right(ends, u), last) for u in draws)
        keys = {
            i: -math.log(_unit(salt, token, i)) / weight
            for i, weight in enumerate(weights)
            if weight
        }
        return sorted(sorted(keys, key=keys.__getitem__)[:size])

    def _by_position(self, total: int, size: int) -> list[int]:
        if self.strategy == "first":
            return list(range(min(size, total)))
        if self.strategy == "last":
            return list(range(max(total - size, 0), total))
        if self.step is not None:
            return list(range(0, total, self.step))[:size]
        size = min(size, total)
        return [i * total // size for i in range(size)]

    def _size(self, total: int, *, least: int) -> int:
        if self.n is not None:
            return self.n
        if self.frac is not None:
            return max(round(self.frac * total), least)
        if self.step is not None:
            return total
        raise ValueError(
            "this Sample does not say how many items to choose: give n= or frac=, "
            "or write the list itself to use all items"
        )

    def _salt(self) -> str:
        return secrets.token_hex(16) if self.seed is None else str(self.seed)

    def _items(self, action: str) -> list[Any]:
        if self.items is None:
            raise TypeError(
                f"this Sample has no items to {action} from: it samples records as a step of a "
                "pipeline. Write Sample(items, n=...) to choose from a list"
            )
        return self.items

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__() if self.items is None else iter(self.items)

    def __len__(self) -> int:
        return len(self._items("count"))

    def __bool__(self) -> bool:
        return True  # not by length: a sample of records has none

    def describe(self) -> str:
        """One short line: how many, by which strategy and seed."""
        if self.n is not None:
            many = f"{self.n:,}"
        elif self.frac is not None:
            many = f"{self.frac:.4g} of all"
        else:
            many = "all"
        if self.items is not None:
            many += f" of {len(self.items)} items"
        parts = [many, self.strategy]
        if self.step is not None:
            parts.append(f"every {self.step}")
        if self.strategy in _RANDOM:
            parts.append("fresh each time" if self.seed is None else f"seed {self.seed}")
        if self.replace:
            parts.append("with repeats")
        return ", ".join(parts)

    def view_head(self) -> Head:
        """First line of the card: of what, how many, how chosen."""
        what = "records" if self.is_step else "items, drawn per record"
        name = self._name or self.maker_name()
        kind = f"{self.maker_name()} · " if self._name else ""
        return Head(formats.cell(name, formats.MAX_NAME), (f"{kind}{what}: {self.describe()}",))

    def view_body(self) -> tuple[Block, ...]:
        """Strategy and seed; of items the first, with their weights."""
        facts = [Fact("strategy", (_STRATEGIES[self.strategy],))]
        if self.strategy in _RANDOM:
            seed = "none: a fresh choice each time" if self.seed is None else f"{self.seed}"
            facts.append(Fact("seed", (seed,)))
        if self.replace:
            facts.append(Fact("repeats", ("the same one may come several times",)))
        if self.items is None:
            facts.append(Fact("order", ("chosen records keep theirs",)))
            return (Facts(tuple(facts), is_ruled=True),)
        return (Facts(tuple(facts), is_ruled=True), *self._item_blocks(self.items))

    def _item_blocks(self, items: Sequence[Any]) -> list[Block]:
        columns = [Column("", "index"), Column("item")]
        total = sum(self.by) if self.by else 0.0
        if self.by:
            columns += [Column("weight", "number"), Column("share", "number")]
        rows: list[Row] = []
        for i, item in enumerate(items[:N_ITEMS]):
            shown = item if isinstance(item, (str, int, float, bool)) else setting_text(item)
            row: list[AnyCell] = [Cell((muted(str(i)),)), Value(shown)]
            if self.by:
                row += [Cell((f"{self.by[i]:g}",)), Cell((f"{self.by[i] / total:.0%}",))]
            rows.append(tuple(row))
        blocks: list[Block] = [Table(tuple(columns), tuple(rows))]
        if len(items) > N_ITEMS:
            blocks.append(
                Paragraph((muted(formats.plural(len(items) - N_ITEMS, "more item")),), is_note=True)
            )
        return blocks


def _unit(salt: str, token: str, index: int) -> float:
    """A number above 0 and below 1, decided by the arguments."""
    text = f"{salt}\x1f{token}\x1f{index}".encode("utf-8", "surrogatepass")
    # 52 bits, so that the half below keeps its place and neither end is reached.
    bits = int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 12
    return (bits + 0.5) / (1 << 52)


def _item_list(items: Iterable[Any]) -> list[Any]:
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        hint = f"; to sample records write Sample(n={items})" if isinstance(items, int) else ""
        raise TypeError(
            f"Sample chooses from a list of items, not from {type(items).__name__}{hint}"
        )
    found = list(items)
    if not found:
        raise ValueError("Sample got an empty list of items; there is nothing to choose from")
    return found


def _whole(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} is a whole number, not {value!r} ({type(value).__name__})"
        ) from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} is a whole number from 1 up, not {value!r}")
    return number


def _seed(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"seed is a whole number, or None for a fresh choice each time, not {value!r}"
        ) from None


def _fraction(value: Any, replace: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"frac is a number above 0 and up to 1, not {value!r}")
    if not 0 < value < math.inf or (value > 1 and not replace):
        raise ValueError(f"frac is above 0 and up to 1 (above 1 with replace=True), not {value!r}")
    return float(value)
