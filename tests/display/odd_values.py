"""Values that are not what they seem, and that may raise whatever is asked of them."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

SECRET = "<u>not markup</u>"


class Refuses:
    """Raises at everything that a display could ask."""

    def _no(self, *_: Any) -> Any:
        raise RuntimeError("no")

    __repr__ = __str__ = __eq__ = __len__ = __iter__ = __bool__ = __format__ = _no
    __getattr__ = __hash__ = __html__ = _no


class Proxy:
    """A lazy object that cannot be loaded any more."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("gone")


class EvilText(str):
    """Text that says other things than it holds."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    def __html__(self) -> str:
        return "<script>alert(1)</script>"

    def _no(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    split = strip = replace = encode = __format__ = __len__ = __getitem__ = __iter__ = _no
    isspace = splitlines = translate = _no


class EvilList(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


class EvilDict(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("no")

    def get(self, *_: Any) -> Any:
        raise RuntimeError("no")


class EvilInt(int):
    def __format__(self, _: str) -> str:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        return "<script>"


class EvilFloat(float):
    def __format__(self, _: str) -> str:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Speaks:
    """Its words are a class of their own."""

    def __repr__(self) -> str:
        return Markup(SECRET)


class OddZone(datetime.tzinfo):
    def utcoffset(self, _: Any) -> Any:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Colour(enum.Enum):
    RED = "red"


def _cycle() -> list[Any]:
    out: list[Any] = ["a"]
    out.append(out)
    return out


def _deep() -> list[Any]:
    out: list[Any] = []
    for _ in range(5_000):
        out = [out]
    return out


ODD: dict[str, Any] = {
    "refuses": Refuses(),
    "proxy": Proxy(),
    "evil text": EvilText(SECRET),
    "long evil text": EvilText(SECRET * 40),
    "markup": Markup(SECRET),
    "long markup": Markup(SECRET * 40),
    "evil list": EvilList([1]),
    "evil dict": EvilDict(a=1),
    "evil int": EvilInt(7),
    "evil float": EvilFloat(1.5),
    "speaks markup": Speaks(),
    "text of numpy": np.str_(SECRET),
    "in a list": [Refuses(), EvilText(SECRET), Markup(SECRET), object()],
    "in a dict": {EvilText("k"): Markup(SECRET), (1, 2): Refuses()},
    "chat": [{"role": EvilText("user"), "content": Markup(SECRET)}],
    "odd time": datetime.datetime(2026, 1, 2, tzinfo=OddZone()),
    "year one": datetime.datetime.min.replace(tzinfo=datetime.UTC),
    "huge int": 10**10_000,
    "huge negative": -(10**10_000),
    "huge int in a list": [10**10_000],
    "nan": float("nan"),
    "infinite": float("-inf"),
    "small": 5e-324,
    "decimal": decimal.Decimal("1E+999999"),
    "signalling": decimal.Decimal("sNaN"),
    "fraction": fractions.Fraction(1, 3),
    "complex": complex("nan+infj"),
    "bytes": b"\x00<b>",
    "bytearray": bytearray(b"x" * 10_000),
    "memoryview": memoryview(b"abc"),
    "cycle": _cycle(),
    "deep": _deep(),
    "set": {"a", "b", "<b>"},
    "frozenset": frozenset(),
    "tuple": (1, "<b>"),
    "range": range(10**9),
    "enum": Colour.RED,
    "path": PurePosixPath("<b>"),
    "object": object(),
    "function": len,
    "lambda": lambda x: x,
    "class": Refuses,
    "exception": ValueError("<b>"),
    "generator": (i for i in ()),
    "NA": pd.NA,
    "NaT": pd.NaT,
    "timestamp": pd.Timestamp("2026-01-02T03:04", tz="UTC"),
    "series": pd.Series([1, 2]),
    "frame": pd.DataFrame({"<b>": [1]}),
    "int of numpy": np.int64(5),
    "float of numpy": np.float32(1.5),
    "bool of numpy": np.bool_(True),
    "array": np.arange(10_000),
    "no dimension": np.array(3),
    "nanoseconds": np.datetime64("2026-01-02T03:04:05.000000006", "ns"),
    "span": np.timedelta64(3, "D"),
    "record": np.zeros(1, dtype=[("a", "i4")])[0],
    "ellipsis": ...,
    "not implemented": NotImplemented,
}
