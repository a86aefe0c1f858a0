"""Sparks, the small pictures of columns: bars as an image."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable

from datafast_nb.display.views import Spark

BAR = 8
"""Pixels from one bar to the next, a gap of 1 included."""
HEIGHT = 18
MAX_BARS = 24


def bars(counts: Iterable[float]) -> tuple[float, ...]:
    """Counts as heights from 0 to 1, the largest 1; what is no finite positive number is 0."""
    sizes = [c if c > 0 and math.isfinite(c) else 0 for c in counts]
    top = max(sizes, default=0)
    return tuple(size / top if top else 0.0 for size in sizes)


def spark_uri(spark: Spark, right: bool = False) -> tuple[str, int, int]:
    """An SVG as a data URI of at most 700 characters, its width and its height in pixels.

    `right`: the last bar ends at the right edge, for columns of numbers. A bar above 0 is at
    least one pixel high. Neighbours are joined where there are more than `MAX_BARS`.
    """
    heights = _heights(spark)
    path = "".join(
        f"M{i * BAR + right} {HEIGHT}v-{max(1.0, h * HEIGHT):.1f}h{BAR - 1}V{HEIGHT}".replace(
            ".0h", "h"
        )
        for i, h in enumerate(heights)
        if h > 0
    )
    width = BAR * max(1, len(heights))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}">'
        f'<path fill="#808080" d="{path}"/></svg>'
    )
    data = base64.b64encode(svg.encode()).decode("ascii")
    return f"data:image/svg+xml;base64,{data}", width, HEIGHT


def _heights(spark: Spark) -> list[float]:
    heights = [min(1.0, h) if h > 0 else 0.0 for h in spark.bars]  # NaN is not above 0
    joined = math.ceil(len(heights) / MAX_BARS) or 1
    return [max(heights[i : i + joined]) for i in range(0, len(heights), joined)]
