"""What the models of this process were asked so far, and what it cost: for their cards."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datafast_nb.models.base import Model


@dataclass(frozen=True, slots=True)
class Tally:
    """Calls of one model since the process began; answers of the memo are no calls."""

    calls: int = 0
    """Attempts that came to an end, re-asks and failures included."""
    failed: int = 0
    """Those without a reply."""
    usd: float = 0.0
    """List price of the calls whose price is known."""
    unpriced: int = 0
    """Calls whose price is not known."""


# The engine's thread writes, any thread that shows a model reads.
_LOCK = threading.Lock()
_tallies: dict[tuple[str, ...], Tally] = {}


def note_call(model: Model, usd: float, *, failed: bool = False) -> None:
    """Count a call that ended. `usd`: its list price, NaN where unknown."""
    try:
        key = _key(model)
    except Exception:  # of a user's model: an answer is worth more than its place in a count
        return
    is_priced = usd == usd
    with _LOCK:
        before = _tallies.get(key, Tally())
        _tallies[key] = replace(
            before,
            calls=before.calls + 1,
            failed=before.failed + failed,
            usd=before.usd + (usd if is_priced else 0.0),
            unpriced=before.unpriced + (not is_priced),
        )


def tally_of(model: Model) -> Tally:
    """The calls of all models with this one's provider, address and name."""
    with _LOCK:
        return _tallies.get(_key(model), Tally())


def _key(model: Model) -> tuple[str, ...]:
    # Not `identity()`: that of a local model reads its weights.
    path = getattr(model, "path", None)
    return (model.provider, model.endpoint, model.name, "" if path is None else str(path))
