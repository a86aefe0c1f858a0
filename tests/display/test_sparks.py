"""Bars of columns: as SVG and as signs."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.display.sparks import BAR, HEIGHT, MAX_BARS, bars, spark_uri
from datafast_nb.display.views import Spark

SVG = "{http://www.w3.org/2000/svg}"
heights = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=200)


def drawn(spark: Spark, right: bool = False) -> list[tuple[float, float, float]]:
    """Left end, right end and height of each bar, read from the image."""
    uri, width, height = spark_uri(spark, right)
    svg = ET.fromstring(base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")))
    assert (svg.get("width"), svg.get("height")) == (str(width), str(height))
    (path,) = svg.findall(f"{SVG}path")
    assert path.get("fill") == "#808080"
    found = re.findall(r"M(\d+) 18v-([\d.]+)h(\d+)V18", path.get("d") or "")
    assert "".join(f"M{x} 18v-{h}h{w}V18" for x, h, w in found) == path.get("d")
    return [(float(x), float(x) + float(w), float(h)) for x, h, w in found]


def test_bars_are_shares_of_the_largest_count() -> None:
    assert bars([5, 3, 3, 0]) == (1.0, 0.6, 0.6, 0.0)
    assert bars([]) == ()
    assert bars([0, 0]) == (0.0, 0.0)


@given(heights)
def test_bars_lie_between_0_and_1(counts: list[float]) -> None:
    out = bars(counts)
    assert len(out) == len(counts)
    assert all(0 <= h <= 1 for h in out)


def test_bars_are_drawn_as_high_as_their_share() -> None:
    assert drawn(Spark((1.0, 0.5, 0.0, 0.001), "words")) == [(0, 7, 18), (8, 15, 9), (24, 31, 1)]


def test_on_the_right_the_last_bar_ends_at_the_edge() -> None:
    spark = Spark((0.5, 1.0), "")
    assert drawn(spark)[-1][1] == 2 * BAR - 1
    assert drawn(spark, right=True)[-1][1] == 2 * BAR == spark_uri(spark, True)[1]


@given(heights)
def test_an_image_is_small_whatever_the_bars_are(counts: list[float]) -> None:
    spark = Spark(tuple(counts), "words")
    uri, width, height = spark_uri(spark)
    assert len(uri) <= 700
    assert height == HEIGHT
    assert BAR <= width <= BAR * MAX_BARS
    joined = -(-len(counts) // MAX_BARS)
    groups = [counts[i : i + joined] for i in range(0, len(counts), joined or 1)]
    assert len(drawn(spark)) == sum(any(c > 0 for c in group) for group in groups)
