"""The graph of a pipeline: as a picture, as a Graphviz object, as text.

The picture's places come from the `dot` program, its words never pass through it: they are
written here, escaped, inside filled boxes, so that it reads on any page.
"""

from __future__ import annotations

import base64
import math
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

from datafast_nb.display import dot, folding, formats
from datafast_nb.display.dot import Layout, Point
from datafast_nb.display.views import SIGNS, Graph, GraphNode, Line, Mark, MarkName, Span, plain

if TYPE_CHECKING:
    import graphviz  # type: ignore[import-untyped]

MAX_NODES = 40
MAX_WIDTH = 1_056
"""Pixels of one row; the displays are 1,080 wide."""
ROW_WIDTH = 720
"""Pixels that the rows of a folded graph aim at."""
NAME_COLUMNS = 28
LINE_COLUMNS = 36
MAX_LINES = 4
MAX_IMAGE = 200_000
"""Characters of an image in a page."""

# Light first; the second stands in dark pages.
_FILL = ("#f5f5f6", "#232327")
_TEXT = ("#1b1b1f", "#ececef")
_SOFT = ("#55555c", "#b3b3bb")
_GREY, _BLUE, _RED = "#808080", "#2f7fe0", "#e5484d"
_MARKS: dict[MarkName, str] = {
    "memo": "#2b9a66",
    "kept": "#2b9a66",
    "added": "#2b9a66",
    "new": _BLUE,
    "pending": _BLUE,
    "failed": _RED,
    "warning": "#b8720a",
}
_FONT = "-apple-system,'Segoe UI',Inter,Helvetica,Arial,sans-serif"
_DARK = "".join(f'[fill="{light}"]{{fill:{dark}}}' for light, dark in (_FILL, _TEXT, _SOFT))

_PAD = 8
_NAME_PX, _LINE_PX = 12, 11
_NAME_Y, _FIRST_Y, _STEP_Y = 17, 20, 17
"""Baseline of the name, from it to the first line, from line to line."""
_EDGE = 1
"""Room around the graph, so that no frame is cut."""


# The picture.


def graph_image(graph: Graph) -> tuple[str, int, int] | None:
    """An SVG as a data URI, its width and its height in pixels; None without a dot program.

    About 0.6 KB per node. Of a graph of more than `MAX_NODES` nodes the first and the last are
    drawn, with one node that counts what is between them. A row that is wider than `MAX_WIDTH`
    is folded into several where one edge alone crosses, else the graph runs downwards.
    """
    svg = graph_svg(graph)
    return None if svg is None else _as_image(svg)


@lru_cache(maxsize=64)
def graph_svg(graph: Graph) -> str | None:
    """The picture as SVG of its own colours, light or dark as the page is."""
    graph = _shortened(graph)
    if not graph.nodes:
        return None
    boxes = tuple(_Box.of(node) for node in graph.nodes)
    sizes = tuple((box.width, box.height) for box in boxes)
    placed = dot.layout(sizes, graph.edges)
    if placed is not None and placed.width > MAX_WIDTH:
        placed = folding.folded(placed, sizes, graph.edges, aim=ROW_WIDTH, limit=MAX_WIDTH) or min(
            placed, dot.layout(sizes, graph.edges, "TB") or placed, key=lambda p: p.width
        )
    return None if placed is None else _drawn(boxes, placed)


def _as_image(svg: str) -> tuple[str, int, int] | None:
    found = re.search(r'<svg[^>]*? width="([\d.]+)(pt|px)?" height="([\d.]+)', svg)
    if found is None:
        return None
    scale = 4 / 3 if found[2] == "pt" else 1
    data = base64.b64encode(svg.encode("utf-8", "replace")).decode("ascii")
    width, height = (math.ceil(float(n) * scale) for n in (found[1], found[3]))
    return f"data:image/svg+xml;base64,{data}", width, height


@dataclass(frozen=True, slots=True)
class _Box:
    """A node with its words cut to measure; width and height in pixels."""

    node: GraphNode
    name: str
    lines: tuple[Line, ...]
    width: int
    height: int

    @classmethod
    def of(cls, node: GraphNode) -> _Box:
        name = _name(node)
        lines = tuple(_cut(line, LINE_COLUMNS) for line in node.lines[:MAX_LINES])
        texts = [_NAME_PX * 1.06 * _ems(name), *(_LINE_PX * _ems(plain(line)) for line in lines)]
        last = _NAME_Y + (_FIRST_Y + _STEP_Y * (len(lines) - 1) if lines else 1)
        return cls(node, name, lines, math.ceil(max(texts)) + 2 * _PAD, last + 9)

    def drawn(self, center: Point) -> str:
        x, y = center[0] - self.width / 2, center[1] - self.height / 2
        frame, stroke = _frame(self.node)
        # A text that is higher or wider than foreseen ends at the box: the inner svg clips it.
        out = [
            f'<svg x="{_px(x)}" y="{_px(y)}" width="{self.width}" height="{self.height}">',
            f'<rect x="1" y="1" width="{self.width - 2}" height="{self.height - 2}" rx="4"'
            f' fill="{_FILL[0]}" stroke="{frame}" stroke-width="{stroke}"/>',
            f'<text x="{_PAD}" y="{_NAME_Y}" font-size="{_NAME_PX}" font-weight="600"'
            f' fill="{_TEXT[0]}">{_xml(self.name)}</text>',
        ]
        for i, line in enumerate(self.lines):
            fill = _SOFT if i else _TEXT
            words = "".join(_svg_part(part) for part in line)
            at = _NAME_Y + _FIRST_Y + i * _STEP_Y
            out.append(f'<text x="{_PAD}" y="{at}" fill="{fill[0]}">{words}</text>')
        return "".join([*out, "</svg>"])


def _frame(node: GraphNode) -> tuple[str, float]:
    """Colour and width of a node's frame."""
    if node.has_problem:
        return _RED, 1.5
    return (_BLUE, 1.5) if node.is_paid else (_GREY, 0.8)


def _svg_part(part: str | Span | Mark) -> str:
    if isinstance(part, Mark) and part.name in _MARKS:
        return f'<tspan fill="{_MARKS[part.name]}">{SIGNS[part.name]}</tspan>'
    if isinstance(part, Span) and part.style == "strong":
        return f'<tspan font-weight="600">{_xml(part.text)}</tspan>'
    return _xml(plain((part,)))


def _drawn(boxes: Iterable[_Box], placed: Layout) -> str:
    w, h = math.ceil(placed.width) + 2 * _EDGE, math.ceil(placed.height) + 2 * _EDGE
    paths = "".join(map(_arrow, placed.curves))
    nodes = "".join(box.drawn(center) for box, center in zip(boxes, placed.centers, strict=True))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}"'
        f' viewBox="{-_EDGE} {-_EDGE} {w} {h}" font-family="{_FONT}" font-size="{_LINE_PX}">'
        f"<style>@media(prefers-color-scheme:dark){{{_DARK}}}</style>"
        f'<path fill="none" stroke="{_GREY}" d="{paths}"/>{nodes}</svg>'
    )


def _arrow(curve: tuple[Point, ...]) -> str:
    """A path along Bézier curves with an open arrow head at its end."""
    (x0, y0), *rest = curve
    before = next((p for p in reversed(curve[:-1]) if math.dist(p, curve[-1]) > 0.5), curve[0])
    x, y = curve[-1]
    long = math.dist(before, curve[-1]) or 1
    ux, uy = (x - before[0]) / long, (y - before[1]) / long
    # The line ends where the box's frame begins.
    x, y = x - ux, y - uy
    rest[-1] = (x, y)
    (ax, ay), (bx, by) = (
        (x - 5 * ux + side * 3 * uy, y - 5 * uy - side * 3 * ux) for side in (-1, 1)
    )
    line = f"M{_px(x0)} {_px(y0)}" + "C" + " ".join(f"{_px(a)} {_px(b)}" for a, b in rest)
    return f"{line}M{_px(ax)} {_px(ay)}L{_px(x)} {_px(y)}L{_px(bx)} {_px(by)}"


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


# Words.


def graph_text(graph: Graph) -> str:
    """The graph in words: a node per line with its lines, "→ " where it follows the line above.

    A node that follows others names them: "→ join (from ask, rewrite)".
    """
    graph = _shortened(graph)
    parents: dict[int, list[int]] = {}
    for tail, head in graph.edges:
        parents.setdefault(head, []).append(tail)
    out = []
    for i, node in enumerate(graph.nodes):
        came = parents.get(i, [])
        named = ", ".join(_name(graph.nodes[tail]) for tail in came)
        arrow = "→ " if came else ""
        source = f" (from {named})" if came and came != [i - 1] else ""
        words = [_words(plain(line)) for line in node.lines[:MAX_LINES]]
        failed = SIGNS["failed"]
        sign = f"{failed} " if node.has_problem and failed not in "".join(words) else ""
        facts = "".join(f" · {text}" for text in words if text)
        out.append(f"{arrow}{sign}{_name(node)}{source}{facts}")
    return "\n".join(out)


def _shortened(graph: Graph) -> Graph:
    """At most `MAX_NODES` nodes, edges only between them, each once."""
    n = len(graph.nodes)
    nodes, place = graph.nodes, list(range(n))
    if n > MAX_NODES:
        half = MAX_NODES // 2 - 1
        left_out = nodes[half : n - half]
        paid = sum(node.is_paid for node in left_out)
        wrong = sum(node.has_problem for node in left_out)
        lines: list[Line] = [(f"{paid:,} call a model",)] if paid else []
        if wrong:
            lines.append((Mark("failed"), f" {wrong:,} with a problem"))
        middle = GraphNode(f"… {len(left_out):,} more steps", tuple(lines), paid > 0, wrong > 0)
        nodes = (*nodes[:half], middle, *nodes[n - half :])
        place = [i if i < half else max(half, i - len(left_out) + 1) for i in range(n)]
    edges = {(place[a], place[b]): None for a, b in graph.edges if 0 <= min(a, b) <= max(a, b) < n}
    return Graph(nodes, tuple((a, b) for a, b in edges if a != b))


def _name(node: GraphNode) -> str:
    return _clipped(_words(node.name), NAME_COLUMNS) or "(no name)"


def _words(text: str) -> str:
    """Any text as one line that XML can hold."""
    return formats.one_line(text).replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def _xml(text: str) -> str:
    return escape(text, quote=False)


def _cut(line: Line, columns: int) -> Line:
    """The line in at most so many columns, its marks and styles kept."""
    out: list[str | Span | Mark] = []
    left = columns
    for part in line:
        if isinstance(part, Mark):
            out.append(part)
            left -= 1
            continue
        text = part.text if isinstance(part, Span) else part
        words = _words(text)
        # A space between two parts is one of ours.
        head, tail = (" " if text[:1] == " " else ""), (" " if text[-1:] == " " else "")
        short = _clipped(f"{head}{words}{tail}" if words else head, left)
        out.append(Span(short, part.style) if isinstance(part, Span) else short)
        left -= sum(map(_columns, short))
        if left <= 0:
            break
    return tuple(out)


def _clipped(text: str, columns: int) -> str:
    if sum(map(_columns, text)) <= columns:
        return text
    width = 0
    for i, char in enumerate(text):
        width += _columns(char)
        if width >= columns:
            return f"{text[:i].rstrip()}…"
    return text


def _columns(char: str) -> int:
    """Columns in a terminal; as a measure of length, of pictures too."""
    if char.isascii():
        return 1
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _ems(text: str) -> float:
    """Width in units of the font size, rather too wide: which font a page has is not known.

    After the widths of Helvetica, with the sixth more that other system fonts take.
    """
    return 1.17 * sum(map(_em, text))


@lru_cache(maxsize=4096)
def _em(char: str) -> float:
    if char in " !'()*,-./:;I[\\]`fijlrt{|}":
        return 0.3
    if char in "mwMW@%&#+<=>~^":
        return 0.85
    if char.isascii():
        return 0.69 if char.isupper() else 0.56
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0.0
    if ord(char) >= 0x1F000:
        return 1.25
    return 1.0 if unicodedata.east_asian_width(char) in "WF" else 0.66


# The Graphviz object.


def dot_source(graph: Graph, *, name: str = "pipeline") -> graphviz.Digraph:
    """A `graphviz.Digraph` to change, save or draw: nodes named after the steps where they can be.

    It shows itself in a notebook without a system `dot`, and `pipe()` and `render()` use the
    program of the graphviz-pure wheel where no `dot` is on PATH.
    """
    graph = _shortened(graph)
    direction = "LR" if len(graph.nodes) <= 8 else "TB"
    digraph = _digraph_class()(
        name=re.sub(r"\W+", "_", _words(name)),
        graph_attr={"rankdir": direction, "bgcolor": "transparent", "ranksep": "0.33"},
        node_attr={
            "shape": "box",
            "style": "rounded,filled",
            "fillcolor": _FILL[0],
            "color": _GREY,
            "fontcolor": _TEXT[0],
            "fontname": "Helvetica,Arial,sans-serif",
            "fontsize": "11",
        },
        edge_attr={"color": _GREY, "arrowhead": "vee", "arrowsize": "0.6"},
    )
    ids = _ids(graph.nodes)
    for id_, node in zip(ids, graph.nodes, strict=True):
        frame, width = _frame(node)
        digraph.node(id_, label=_label(node), color=frame, penwidth=str(width))
    for tail, head in graph.edges:
        digraph.edge(ids[tail], ids[head])
    digraph.remember(graph)
    return digraph


def _ids(nodes: Collection[GraphNode]) -> list[str]:
    """The names of the steps where Graphviz takes them as they are, else "step_3"."""
    names = [node.name for node in nodes]
    plain_names = {
        name
        for name in names
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
        and names.count(name) == 1
        and not re.fullmatch(r"step_\d+|node|edge|graph|digraph|subgraph|strict", name.lower())
    }
    return [name if name in plain_names else f"step_{i + 1}" for i, name in enumerate(names)]


def _label(node: GraphNode) -> str:
    """A label of Graphviz's HTML kind, left-aligned; nothing in a user's words is markup."""
    box = _Box.of(node)
    rows = [f'<FONT POINT-SIZE="12"><B>{_dot_words(box.name)}</B></FONT>']
    for i, line in enumerate(box.lines):
        words = _dot_words(plain(line)) or " "
        rows.append(f'<FONT COLOR="{_SOFT[0]}">{words}</FONT>' if i else words)
    return "<" + "".join(f'{row}<BR ALIGN="LEFT"/>' for row in rows) + ">"


def _dot_words(text: str) -> str:
    # In labels of this kind too, Graphviz puts the node's name for a backslash with N.
    return _xml(text).replace("\\", "\\\\")


@lru_cache(maxsize=1)
def _digraph_class() -> Any:
    """The class is made at first use: importing graphviz takes time."""
    import graphviz

    class PipelineGraph(graphviz.Digraph):  # type: ignore[misc]
        """A Digraph that needs no system dot to show itself."""

        _shown: tuple[str, Graph] | None = None

        def remember(self, graph: Graph) -> None:
            """Note what the source says now, to draw it better while it is unchanged."""
            self._shown = (self.source, graph)

        def _graph(self) -> Graph | None:
            return self._shown[1] if self._shown and self._shown[0] == self.source else None

        def __repr__(self) -> str:
            graph = self._graph()
            return self.source if graph is None else graph_text(graph)

        def _repr_image_svg_xml(self) -> str | None:
            graph = self._graph()
            return dot.svg(self.source) if graph is None else graph_svg(graph)

        def _repr_html_(self) -> str | None:
            svg = self._repr_image_svg_xml()
            image = None if svg is None else _as_image(svg)
            if image is None or len(image[0]) > MAX_IMAGE:
                return None
            uri, width, height = image
            return (
                f'<div style="overflow-x:auto"><img src="{uri}" alt="{escape(repr(self))}"'
                f' width="{width}" height="{height}" style="min-width:{width}px;margin:0"></div>'
            )

        def _repr_mimebundle_(
            self,
            include: Collection[str] | None = None,
            exclude: Collection[str] | None = None,
            **_: Any,
        ) -> dict[str, Any]:
            # Not image/svg+xml unless asked for: notebooks that are not trusted drop it, and
            # nbconvert wants Inkscape for it.
            wanted = set(include or ("text/plain", "text/html")) - set(exclude or ())
            makers = {
                "text/plain": self.__repr__,
                "text/html": self._repr_html_,
                "image/svg+xml": self._repr_image_svg_xml,
            }
            made = {mime: make() for mime, make in makers.items() if mime in wanted}
            return {mime: data for mime, data in made.items() if data is not None}

        def pipe(self, *args: Any, **kwargs: Any) -> Any:
            with dot.as_default():
                return super().pipe(*args, **kwargs)

        def render(self, *args: Any, **kwargs: Any) -> Any:
            with dot.as_default():
                return super().render(*args, **kwargs)

    return PipelineGraph
