"""What every input must keep to: declared errors only, little time, little memory."""

from __future__ import annotations

import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

MAX_S = 2.0
GROWTH_BYTES = 200_000_000
"""Memory that one input may take beyond what the process had."""
HERE = Path(__file__).parent
FINDINGS = HERE / "findings"


class Finding(Exception):
    """An input breaks a rule; the text says which."""


@dataclass(frozen=True)
class Target:
    """Something that reads foreign bytes.

    `check` raises Finding, or any error that was not declared, and otherwise gives a word for
    what the input led to: a new one makes the input worth changing further.
    """

    name: str
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    check: Callable[[bytes], str]


def require(condition: bool, what: str) -> None:
    """Raise Finding unless the condition holds."""
    if not condition:
        raise Finding(what)


def peak_bytes() -> int:
    """The most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def judge(target: Target, data: bytes) -> tuple[str, str]:
    """What the input led to, and which rule it breaks; "" for none."""
    before, began = peak_bytes(), time.process_time()
    word = broken = ""
    try:
        word = target.check(data)
    except Finding as exc:
        broken = str(exc)
    except Exception as exc:
        at = traceback.extract_tb(exc.__traceback__)[-1]
        place = f"{Path(at.filename).name}:{at.lineno}"
        broken = f"{type(exc).__name__} at {place}: {str(exc)[:200]}"
    took, grown = time.process_time() - began, peak_bytes() - before
    if took > MAX_S:
        broken = broken or f"took {took:.1f} s"
    if grown > GROWTH_BYTES:
        broken = broken or f"took {grown / 1e6:.0f} MB"
    return word, broken


def keep_finding(target: str, data: bytes, folder: Path = FINDINGS) -> Path:
    """Write the input where the tests replay it."""
    path = folder / target / f"{sha256(data).hexdigest()[:16]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def findings_of(target: str) -> list[bytes]:
    """The inputs that were found and kept."""
    return [path.read_bytes() for path in sorted((FINDINGS / target).glob("*.bin"))]


@contextmanager
def declared(*errors: type[BaseException]) -> Iterator[list[BaseException]]:
    """Take these errors as an answer; they stand in the list."""
    caught: list[BaseException] = []
    try:
        yield caught
    except errors as exc:
        require(bool(str(exc)), f"a {type(exc).__name__} without a word")
        caught.append(exc)
