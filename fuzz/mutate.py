"""Random changes to bytes: flips, splices, tokens of a dictionary, large numbers, deep nesting."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

MAX_BYTES = 20_000
MAX_CORPUS = 2_000
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NUMBERS = (
    *(b"0", b"-1", b"-0", b"1.0", b"1e400", b"-1e400", b"1e-400", b"0.1e1", b"9007199254740993"),
    *(b"127", b"255", b"65536", b"2147483648", b"9223372036854775807", b"9223372036854775808"),
    *(b"18446744073709551616", b"1" + b"0" * 80, b"NaN", b"Infinity", b"-Infinity", b"true"),
    *(b"null", b'"1"', b"[]", b"{}", b"0" * 5_000, b"7" * 5_000),
)
_BYTES = (
    *(b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b"\xef\xbb\xbf", b"\n"),
    *(b"\r\n", b"\r", b"\xe2\x80\xa8", b"\x85", b"\x1b[31m", b'"', b"\\", b"\\u", b"\\ud800"),
    *(b"\\udc00", b"\\u0000", b"{", b"}", b"[", b"]", b",", b":", b" "),
)
_NESTS = ((b"[", b"]"), (b'{"a":', b"}"), (b"{", b"}"), (b'[{"$dict":', b"}]"), (b'"', b'"'))


class Mutator:
    """Makes inputs of others: the seeds, and those that were seen to lead somewhere new.

    Parameters
    ----------
    seeds
        Inputs to begin with.
    words
        Tokens of the format.
    """

    def __init__(
        self, rng: random.Random, seeds: Sequence[bytes], words: Sequence[bytes] = ()
    ) -> None:
        self._rng = rng
        self._corpus = list(seeds)
        self._n_seeds = len(seeds)
        self._words = (*words, *_BYTES)

    def keep(self, data: bytes) -> None:
        """Take an input among those that are changed further."""
        if len(self._corpus) < MAX_CORPUS:
            self._corpus.append(data)
        else:
            self._corpus[self._rng.randrange(self._n_seeds, MAX_CORPUS)] = data

    def make(self) -> bytes:
        """The next input, of at most `MAX_BYTES`."""
        rng = self._rng
        # Half of the time from the end: what was found last has been tried least.
        corpus = self._corpus
        n = len(corpus)
        place = rng.randrange(n) if rng.random() < 0.5 else n - 1 - int(n * rng.random() ** 3)
        data = corpus[max(0, place)]
        for _ in range(min(8, 1 + int(rng.expovariate(0.6)))):
            data = self._change(data)[:MAX_BYTES]
        return data

    def _change(self, data: bytes) -> bytes:
        rng = self._rng
        n = len(data)
        at = rng.randrange(n + 1)
        end = min(n, at + 1 + int(rng.expovariate(0.1)))
        kind = rng.randrange(12)
        if kind == 0 and at < n:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        if kind == 1 and at < n:
            return data[:at] + rng.randbytes(1) + data[at + 1 :]
        if kind == 2:
            return data[:at] + data[end:]
        if kind == 3:
            return data[:at] + data[at:end] * rng.choice((2, 2, 3, 50)) + data[end:]
        if kind == 4:
            other = rng.choice(self._corpus)
            start = rng.randrange(len(other) + 1)
            return data[:at] + other[start : start + 1 + int(rng.expovariate(0.02))] + data[end:]
        if kind == 5:
            other = rng.choice(self._corpus)
            return data[:at] + other[rng.randrange(len(other) + 1) :]
        if kind in (6, 7):
            return data[:at] + rng.choice(self._words) + data[at if kind == 6 else end :]
        if kind == 8:
            return self._renumbered(data)
        if kind == 9:
            opening, closing = rng.choice(_NESTS)
            depth = rng.choice((1, 2, 99, 101, 255, 500, 990, 1_100, 6_000))
            inner = data[at:end]
            return data[:at] + opening * depth + inner + closing * depth + data[end:]
        if kind == 10:
            return data[:at]
        return self._swapped(data)

    def _renumbered(self, data: bytes) -> bytes:
        found = list(_NUMBER.finditer(data))
        if not found:
            return data
        hit = self._rng.choice(found)
        return data[: hit.start()] + self._rng.choice(_NUMBERS) + data[hit.end() :]

    def _swapped(self, data: bytes) -> bytes:
        """Two pieces between separators, in each other's place."""
        separator = self._rng.choice((b",", b"\n", b":", b" "))
        parts = data.split(separator)
        if len(parts) > 1:
            i, j = self._rng.randrange(len(parts)), self._rng.randrange(len(parts))
            parts[i], parts[j] = parts[j], parts[i]
        return separator.join(parts)
