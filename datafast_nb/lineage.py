"""Tables between steps and where their records come from.

A parent index costs less than the work that makes a record, so every step keeps them all,
also where the tables themselves are too large to keep.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from datafast_nb.records import Record, copy_record


@dataclass(slots=True)
class Table:
    """Records at one place of a pipeline."""

    records: list[Record]
    flat: bool = True
    """No record holds a list or dict."""
    row_ids: list[str] | None = None
    """Identity of each record: of its source row, and of its place among the row's children
    (`child_ids`); None where no step needed it."""
    tokens: list[str] | None = None
    """What decides parameters that are sampled per record; None before the first LLM step."""
    is_shared: bool = False
    """The dicts are the source's own: to be copied before anyone may keep or change them."""

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: Sequence[int]) -> Table:
        """The records at `indices`, in that order."""
        ids, tokens = self.row_ids, self.tokens
        return Table(
            [self.records[i] for i in indices],
            self.flat,
            None if ids is None else [ids[i] for i in indices],
            None if tokens is None else [tokens[i] for i in indices],
            self.is_shared,
        )

    def unshared(self) -> Table:
        """The table with copies of the records."""
        return Table(self.copies(), self.flat, self.row_ids, self.tokens)

    def copies(self) -> list[Record]:
        """Copies of the records that share nothing with them."""
        return list(map(dict.copy if self.flat else copy_record, self.records))


def child_id(parent: str, fan_out: int, place: int) -> str:
    """Identity of a record's child: the first child keeps it, later ones say their place.

    Parameters
    ----------
    fan_out
        Number of the step among those of the pipeline that make several records of one.
    place
        Of the child among the children that the step makes of this record, from 0.
    """
    return f"{parent}:{fan_out}-{place}" if place else parent


def child_ids(ids: Sequence[str], parents: Sequence[int], fan_out: int) -> list[str]:
    """Identities of the children at the indices `parents`, which stand in ascending order."""
    out = []
    last, place = -1, 0
    for p in parents:
        place = place + 1 if p == last else 0
        last = p
        out.append(f"{ids[p]}:{fan_out}-{place}" if place else ids[p])
    return out


def base_row(identity: str) -> str:
    """Identity of the source row that a record comes from."""
    return identity.partition(":")[0]


@dataclass(slots=True)
class Parents:
    """For each output of a step, the index of its parent among the step's inputs."""

    n_in: int = 0
    n_out: int = 0
    n_parents: int = 0
    """Inputs that have at least one output."""
    known: bool = True
    """False where user code changed the number of records: nobody knows the parents."""
    _starts: list[int] = field(default_factory=list)
    _pieces: list[tuple[int, array[int] | None]] = field(default_factory=list)

    def add(self, n_in: int, n_out: int, parents: Sequence[int] | None) -> None:
        """The next `n_in` inputs gave the next `n_out` outputs; None: one for one."""
        self._starts.append(self.n_out)
        if parents is None:
            self._pieces.append((self.n_in, None))
            self.n_parents += n_out
        else:
            self._pieces.append((self.n_in, array("i", parents)))
            # Children of one parent stand together or the list is short: a set is exact either way.
            self.n_parents += n_out if n_out <= 1 else len(set(parents))
        self.n_in += n_in
        self.n_out += n_out

    def of(self, output: int) -> int | None:
        """Index of the input that output number `output` comes from; None if not known."""
        if not self.known or not 0 <= output < self.n_out:
            return None
        piece = bisect_right(self._starts, output) - 1
        offset, parents = self._pieces[piece]
        local = output - self._starts[piece]
        return offset + (local if parents is None else parents[local])

    def all(self) -> Iterator[int]:
        """Parent of every output, in order. Empty if not known."""
        if not self.known:
            return
        for piece, (offset, parents) in enumerate(self._pieces):
            end = self._starts[piece + 1] if piece + 1 < len(self._starts) else self.n_out
            if parents is None:
                yield from range(offset, offset + end - self._starts[piece])
            else:
                for p in parents:
                    yield offset + p


@dataclass(slots=True)
class Fates:
    """What became of a step's inputs. The fates add up to the number of inputs."""

    advanced: int = 0
    filtered: int = 0
    failed: int = 0
    skipped: int = 0
    """Went on without a model being asked (`skip_if`)."""
    waiting: int = 0
    """Not reached: the run stopped, or their answers are pending in a preview."""
    beyond_limit: int = 0
    """Left out by `limit=` or `run_one`."""

    @property
    def total(self) -> int:
        """All inputs."""
        return (
            self.advanced
            + self.filtered
            + self.failed
            + self.skipped
            + self.waiting
            + self.beyond_limit
        )
