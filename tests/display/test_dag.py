"""The graph of a pipeline: drawn by a real dot program, in words, as a Graphviz object."""

from __future__ import annotations

import base64
import math
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datafast_nb.display import dag, dot, formats
from datafast_nb.display.views import Graph, GraphNode, Line, Mark, Span

SVG = "{http://www.w3.org/2000/svg}"
PAYLOADS = [
    "<script>alert(1)</script>",
    "</text></svg><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<B>bold</B>",
    "<TABLE><TR><TD>x</TD></TR></TABLE>",
    '<IMG SRC="/etc/passwd"/>',
    "<",
    ">",
    "<<b>x</b>>",
    "&amp;",
    "&lt;b&gt;",
    "&#60;",
    "&undefined;",
    "&",
    '"',
    '\\"',
    "\\",
    "\\\\",
    "\\N",
    "\\G",
    "\\l left",
    "\\n",
    "\\E",
    "a:b",
    "a:b:n",
    "a -> b",
    "n0",
    'a"];evil[label="x',
    "a];evil->b",
    "}digraph{",
    "{a|b}",
    "<port> x",
    "// comment",
    "/* comment */",
    "#include",
    "node",
    "Digraph",
    "strict",
    "step_2",
    "]]>",
    "<![CDATA[x]]>",
    "<!-- x -->",
    "<?xml?>",
    "--><x>",
    "javascript:alert(1)",
    "url(#x)",
    "{{7*7}}",
    "$x$",
    "%s %n",
    "a\nb",
    "a\tb\r\nc",
    "\x00\x07\x1b[31mred",
    "\u202etxt.exe",
    "\u2066x\u2069",
    "\ud800",
    "\ufffe\uffff",
    "é e\u0301",
    "日本語",
    "مرحبا",
    "👩‍👩‍👧🎉",
    "Ẑ̷̧̛̤̹",
    "",
    "   ",
    "\x0c",
    "\x1f\x85",
    "None",
    "a  b",
]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Nothing remembered of programs and graphs, before and after."""

    def forget() -> None:
        for cached in (dot.programs, dot.layout, dot.svg, dag.graph_svg):
            cached.cache_clear()
        dot._given_up.clear()

    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def chain(n: int, lines: int = 3) -> Graph:
    texts: tuple[Line, ...] = (("868 records",), (Mark("memo"), " 2 memo, 866 new"), ("$0.10",))
    nodes = (
        GraphNode(f"step_number_{i}", texts[:lines], is_paid=i % 3 == 2, has_problem=i == 4)
        for i in range(n)
    )
    return Graph(tuple(nodes), tuple((i, i + 1) for i in range(n - 1)))


def parsed(graph: Graph) -> ET.Element:
    svg = dag.graph_svg(graph)
    assert svg is not None
    return ET.fromstring(svg)


def texts(node: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in node.iter(f"{SVG}text")]


def boxes(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of each node."""
    out = []
    for node in root.findall(f"{SVG}svg"):
        x, y, w, h = (float(node.get(key) or "nan") for key in ("x", "y", "width", "height"))
        out.append((x, y, x + w, y + h))
    return out


def curves(root: ET.Element) -> list[list[tuple[float, float]]]:
    """Points of each edge, without the strokes of its arrow head."""
    path = root.find(f"{SVG}path")
    assert path is not None
    found = re.findall(r"M([^MCL]+)C([^M]+)M[^ML]+L[^L]+L[^M]+", path.get("d") or "")
    numbers = [[float(n) for n in re.findall(r"-?[\d.]+", f"{a} {b}")] for a, b in found]
    return [list(zip(n[::2], n[1::2], strict=True)) for n in numbers]


def distance(point: tuple[float, float], box: tuple[float, float, float, float]) -> float:
    """From a point to the frame of a box."""
    (x, y), (left, top, right, bottom) = point, box
    if left <= x <= right and top <= y <= bottom:
        return min(x - left, right - x, y - top, bottom - y)
    return math.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom))


def check(graph: Graph) -> ET.Element:
    """What holds for any picture: inside the frame, nothing overlaps, edges reach their boxes."""
    root = parsed(graph)
    left, top, width, height = map(float, (root.get("viewBox") or "").split())
    assert (root.get("width"), root.get("height")) == (f"{width:.0f}", f"{height:.0f}")
    placed = boxes(root)
    assert len(placed) == len(graph.nodes)
    for i, (x0, y0, x1, y1) in enumerate(placed):
        assert left <= x0 < x1 <= left + width and top <= y0 < y1 <= top + height
        for u0, v0, u1, v1 in placed[:i]:
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0
    edges = list(dict.fromkeys(edge for edge in graph.edges if edge[0] != edge[1]))
    drawn = curves(root)
    assert len(drawn) == len(edges)
    for (tail, head), points in zip(edges, drawn, strict=True):
        assert len(points) % 3 == 1
        assert distance(points[0], placed[tail]) < 4
        assert distance(points[-1], placed[head]) < 4
    return root


# The picture.


def test_nodes_say_name_and_lines_and_paid_ones_have_a_blue_frame() -> None:
    graph = Graph(
        (
            GraphNode("articles", (("1,000 records",), ("list",))),
            GraphNode("ask", (("868 calls",), ("2 memo, 866 new",), ("$0.10",)), is_paid=True),
            GraphNode(
                "keep", ((Mark("failed"), " no column ", Span("mark", "code")),), False, True
            ),
        ),
        ((0, 1), (1, 2)),
    )
    root = check(graph)
    first, ask, keep = root.findall(f"{SVG}svg")
    assert texts(first) == ["articles", "1,000 records", "list"]
    assert texts(ask) == ["ask", "868 calls", "2 memo, 866 new", "$0.10"]
    assert texts(keep) == ["keep", "✕ no column mark"]
    frames = [node.find(f"{SVG}rect") for node in (first, ask, keep)]
    assert [(f.get("stroke"), f.get("stroke-width")) for f in frames if f is not None] == [
        ("#808080", "0.8"),
        ("#2f7fe0", "1.5"),
        ("#e5484d", "1.5"),
    ]
    assert {f.get("fill") for f in frames if f is not None} == {"#f5f5f6"}
    mark = keep.find(f".//{SVG}tspan")
    assert mark is not None and (mark.text, mark.get("fill")) == ("✕", "#e5484d")
    style = root.find(f"{SVG}style")
    assert style is not None and "prefers-color-scheme:dark" in (style.text or "")
    for color in {t.get("fill") for t in root.iter(f"{SVG}text")}:
        assert f'[fill="{color}"]{{fill:' in (style.text or "")


@pytest.mark.parametrize("place", ["name", "line"])
def test_hostile_words_come_out_as_they_went_in(place: str) -> None:
    assert len(PAYLOADS) >= 40
    for start in range(0, len(PAYLOADS), 10):
        some = PAYLOADS[start : start + 10]
        nodes = tuple(
            GraphNode(p) if place == "name" else GraphNode("x", ((p,),), is_paid=True) for p in some
        )
        root = check(Graph(nodes, tuple((i, i + 1) for i in range(len(nodes) - 1))))
        for payload, node in zip(some, root.findall(f"{SVG}svg"), strict=True):
            words = formats.one_line(payload).replace("\ufffe", "\\ufffe")
            words = words.replace("\uffff", "\\uffff")
            if place == "name":
                assert len(words) <= dag.NAME_COLUMNS or texts(node)[0].endswith("…")
                assert texts(node)[0] in (words or "(no name)", texts(node)[0].rstrip("…") + "…")
                assert (words or "(no name)").startswith(texts(node)[0].rstrip("…"))
            else:
                shown = texts(node)[1].strip()
                assert words.startswith(shown.rstrip("…").rstrip()) and (shown or not words)


def test_a_picture_has_nothing_that_acts_or_loads() -> None:
    graph = Graph(
        tuple(GraphNode(p, ((p,), (Span(p, "strong"),))) for p in PAYLOADS[: dag.MAX_NODES]), ()
    )
    root = parsed(graph)
    names = {"svg", "style", "path", "rect", "text", "tspan"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == names
    for element in root.iter():
        for key in element.attrib:
            assert not key.lower().startswith("on") and "href" not in key.lower()
            assert key not in ("style", "id", "class")
    (style,) = root.iter(f"{SVG}style")
    assert not re.search(r"url|@import|expression", style.text or "")


def test_long_names_and_lines_are_clipped() -> None:
    graph = Graph((GraphNode("x" * 200, (("y" * 200,), *(((str(i),)) for i in range(9)))),), ())
    name, line, *more = texts(parsed(graph))
    assert name == "x" * 27 + "…" and line == "y" * 35 + "…"
    assert len(more) == dag.MAX_LINES - 1
    wide = texts(parsed(Graph((GraphNode("字" * 40),), ())))[0]
    assert wide == "字" * 13 + "…"


@pytest.mark.parametrize("n", [1, 2, 5, 6, 8, 10, 14, 23, 40])
def test_chains_fit_the_page(n: int) -> None:
    graph = chain(n)
    root = check(graph)
    width = int(root.get("width") or 0)
    assert width <= dag.MAX_WIDTH + 2
    rows = sorted({(top + bottom) / 2 for _, top, _, bottom in boxes(root)})
    if n > 6:
        assert len(rows) > 1
        assert width <= 1.1 * dag.ROW_WIDTH
    else:
        assert len(rows) == 1
    # Rows are read like text: from left to right, then the next below.
    order = sorted(range(n), key=lambda i: (boxes(root)[i][1], boxes(root)[i][0]))
    assert order == list(range(n))


def test_ten_nodes_take_less_than_12_kb_and_a_thousand_are_bounded() -> None:
    for n, most in ((10, 12_000), (40, 40_000), (1_000, 40_000), (20_000, 40_000)):
        image = dag.graph_image(chain(n))
        assert image is not None and len(image[0]) < most
    root = parsed(chain(1_000))
    words = [texts(node) for node in root.findall(f"{SVG}svg")]
    assert len(words) == dag.MAX_NODES - 1
    assert ["… 962 more steps", "321 call a model"] in words
    assert (words[0][0], words[-1][0]) == ("step_number_0", "step_number_999")


def test_what_is_left_out_says_its_problems() -> None:
    nodes = tuple(GraphNode(f"s{i}", has_problem=i in (50, 51)) for i in range(100))
    root = parsed(Graph(nodes, tuple((i, i + 1) for i in range(99))))
    (middle,) = (node for node in root.findall(f"{SVG}svg") if "more steps" in texts(node)[0])
    assert texts(middle) == ["… 62 more steps", "✕ 2 with a problem"]
    rect = middle.find(f"{SVG}rect")
    assert rect is not None and rect.get("stroke") == "#e5484d"


names = st.text(st.characters(codec=None), max_size=40) | st.sampled_from(PAYLOADS)


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 14) -> Graph:
    """Nodes in an order, edges that point on (a few point anywhere, some twice)."""
    n = draw(st.integers(1, max_nodes))
    line = st.lists(names | st.builds(Span, names, st.just("muted")), max_size=2).map(tuple)
    node = st.builds(
        GraphNode, names, st.lists(line, max_size=5).map(tuple), st.booleans(), st.booleans()
    )
    nodes = draw(st.lists(node, min_size=n, max_size=n))
    place = st.integers(0, n - 1)
    edges = draw(st.lists(st.tuples(place, place), max_size=2 * n))
    straight = [(i, i + 1) for i in range(n - 1) if draw(st.integers(0, 9))]
    return Graph(tuple(nodes), (*straight, *edges))


@settings(max_examples=30)
@given(graphs())
def test_any_graph_is_drawn_in_order(graph: Graph) -> None:
    root = check(graph)
    assert len(dag.graph_text(graph).splitlines()) == len(graph.nodes)
    digraph = dag.dot_source(graph)
    drawn = dot.svg(digraph.source)
    assert drawn is not None, digraph.source
    # Graphviz reads back the same words from the labels of its own kind.
    own = [texts(node)[0] for node in root.findall(f"{SVG}svg")]
    theirs = [texts(g)[0] for g in ET.fromstring(drawn).iter(f"{SVG}g") if g.get("class") == "node"]
    # It writes spaces that do not break as such.
    assert sorted(" ".join(t.split()) for t in theirs) == sorted(" ".join(t.split()) for t in own)


def test_branches_are_folded_where_one_edge_crosses() -> None:
    nodes = [*chain(12, 2).nodes, GraphNode("aside", (("x",),))]
    edges = [*chain(12).edges, (3, 12), (12, 5)]
    root = check(Graph(tuple(nodes), tuple(edges)))
    assert int(root.get("width") or 0) <= dag.MAX_WIDTH
    tops = [top for _, top, _, _ in boxes(root)]
    assert tops[11] > tops[0] + 100  # several rows
    assert abs(tops[12] - tops[4]) < 120  # the branch stayed together


def test_a_graph_that_cannot_be_folded_runs_downwards() -> None:
    graph = chain(12, 2)
    root = check(Graph(graph.nodes, (*graph.edges, (0, 11))))
    placed = boxes(root)
    assert int(root.get("width") or 0) < 400
    assert all(above[3] <= below[1] for above, below in pairwise(placed))


def test_edges_to_nowhere_are_left_out() -> None:
    nodes = (GraphNode("a"), GraphNode("b"))
    odd = Graph(nodes, ((0, 1), (0, 1), (1, 1), (0, 7), (-1, 0)))
    assert dag.graph_svg(odd) == dag.graph_svg(Graph(nodes, ((0, 1),)))
    assert dag.graph_svg(Graph((), ())) is None
    assert dag.graph_text(Graph((), ())) == ""


def test_showing_again_starts_no_program(fresh: pytest.MonkeyPatch) -> None:
    started = []
    run = subprocess.run
    fresh.setattr(subprocess, "run", lambda *a, **k: (started.append(a), run(*a, **k))[1])
    first = dag.graph_image(chain(5))
    assert len(started) == 1
    assert dag.graph_image(chain(5)) == first
    assert len(started) == 1


# Programs.


def program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\necho x >> {path}.asked\n{body}\n")
    path.chmod(0o755)
    return str(path)


def times_asked(path: str) -> int:
    asked = Path(f"{path}.asked")
    return len(asked.read_text().splitlines()) if asked.exists() else 0


def test_without_a_program_there_is_text(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(dot, "programs", lambda: ())
    assert dag.graph_image(chain(3)) is None
    assert dag.graph_text(chain(3)).startswith("step_number_0 · 868 records")


@pytest.mark.skipif(os.name == "nt", reason="shell scripts stand in for programs")
@pytest.mark.parametrize(
    "body",
    ["sleep 30", "exit 1", "kill -SEGV $$", "echo nonsense", "echo graph 1 x y", "printf '\\377'"],
    ids=["hangs", "fails", "crashes", "writes nonsense", "writes no numbers", "writes bytes"],
)
def test_a_program_that_fails_is_asked_once(
    fresh: pytest.MonkeyPatch, tmp_path: Path, body: str
) -> None:
    bad = program(tmp_path / "dot", body)
    fresh.setattr(dot, "TIMEOUT_S", 0.3)
    fresh.setattr(dot, "programs", lambda: (bad,))
    start = time.monotonic()
    assert dag.graph_image(chain(3)) is None
    assert dag.graph_image(chain(3)) is None
    assert dag.graph_image(chain(4)) is None
    assert times_asked(bad) == 1
    assert time.monotonic() - start < 5


def test_the_next_program_draws_where_the_first_cannot(
    fresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = dag.graph_svg(chain(3))
    dot.layout.cache_clear()
    dag.graph_svg.cache_clear()
    real = dot.programs()
    not_a_program = tmp_path / "dot"
    not_a_program.write_bytes(b"\x7fELF")
    not_a_program.chmod(0o755)
    fresh.setattr(dot, "programs", lambda: (str(tmp_path / "gone"), str(not_a_program), *real))
    assert dag.graph_svg(chain(3)) == expected is not None


def test_the_wheel_is_found_without_path_home_or_network(tmp_path: Path) -> None:
    code = (
        "from datafast_nb.display import dag\n"
        "from datafast_nb.display.views import Graph, GraphNode\n"
        "import sys\n"
        "g = Graph((GraphNode('a'), GraphNode('b')), ((0, 1),))\n"
        "sys.stdout.write(dag.graph_svg(g) or 'none')"
    )
    env = {"PYTHONPATH": str(Path(dag.__file__).parents[2]), "HOME": "/nonexistent", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # The same picture in another process.
    assert done.stdout == dag.graph_svg(Graph((GraphNode("a"), GraphNode("b")), ((0, 1),)))


def test_a_system_dot_is_found_on_path(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system = program(tmp_path / "dot", "exit 1")
    fresh.setenv("PATH", str(tmp_path))
    assert dot.programs()[-1] == system
    assert "graphviz-pure" in Path(dot.programs()[0]).name


# Words.


def test_text_has_a_node_a_line_and_branches_by_name() -> None:
    nodes = (
        GraphNode("articles", (("1,000 records",), ("list",))),
        GraphNode("easy", (("60 calls",),), is_paid=True),
        GraphNode("hard", ((Mark("memo"), " 40 memo"),), has_problem=True),
        GraphNode("join"),
        GraphNode("alone"),
    )
    graph = Graph(nodes, ((0, 1), (0, 2), (1, 3), (2, 3)))
    assert dag.graph_text(graph).splitlines() == [
        "articles · 1,000 records · list",
        "→ easy · 60 calls",
        "→ ✕ hard (from articles) · ● 40 memo",
        "→ join (from easy, hard)",
        "alone",
    ]


# The Graphviz object.


def test_digraph_names_nodes_after_steps_where_it_can() -> None:
    nodes = tuple(map(GraphNode, ("ask", "keep it", "ask", "node", "step_9", "judge")))
    digraph = dag.dot_source(Graph(nodes, tuple((i, i + 1) for i in range(5))))
    ids = re.findall(r"^\t(\S+) \[label", digraph.source, re.MULTILINE)
    assert ids == ["step_1", "step_2", "step_3", "step_4", "step_5", "judge"]
    assert "\tstep_5 -> judge" in digraph.source


def bundle(digraph: Any, **kwargs: Any) -> dict[str, Any]:
    out: dict[str, Any] = digraph._repr_mimebundle_(**kwargs)
    return out


def test_digraph_shows_itself_without_a_system_dot() -> None:
    digraph = dag.dot_source(chain(5))
    shown = bundle(digraph)
    assert set(shown) == {"text/plain", "text/html"}
    assert shown["text/plain"] == dag.graph_text(chain(5)) == repr(digraph)
    image = dag.graph_image(chain(5))
    assert image is not None and f'src="{image[0]}"' in shown["text/html"]
    svg = bundle(digraph, include=["image/svg+xml"])
    assert svg == {"image/svg+xml": dag.graph_svg(chain(5))}
    assert set(bundle(digraph, exclude=["text/html"])) == {"text/plain"}


def test_digraph_that_was_changed_is_drawn_as_it_is_now() -> None:
    digraph = dag.dot_source(chain(3))
    before = bundle(digraph)
    digraph.node("mine", label="a note of mine")
    digraph.edge("mine", "step_number_1")
    after = bundle(digraph)
    assert "a note of mine" in after["text/plain"]
    data = re.search(r"base64,([^\"]+)", after["text/html"])
    assert data is not None and b"a note of mine" in base64.b64decode(data[1])
    assert after != before
    digraph.body.append("][ no DOT")
    assert set(bundle(digraph)) == {"text/plain"}
    # A source that is wrong says nothing about the program.
    assert dot._given_up == set()
    assert "image" not in bundle(dag.dot_source(chain(3))) and "text/html" in before


def test_digraph_falls_back_to_text(fresh: pytest.MonkeyPatch) -> None:
    digraph = dag.dot_source(chain(2))
    fresh.setattr(dot, "programs", lambda: ())
    assert bundle(digraph) == {"text/plain": dag.graph_text(chain(2))}


def test_digraph_is_saved_with_the_program_of_the_wheel(
    fresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from graphviz.backend import dot_command

    fresh.setenv("PATH", "")
    before = dot_command.DOT_BINARY
    digraph = dag.dot_source(chain(3))
    assert "step_number_2" in digraph.pipe(format="svg", encoding="utf-8")
    saved = Path(digraph.render(str(tmp_path / "graph"), format="png", cleanup=True))
    assert saved.read_bytes().startswith(b"\x89PNG")
    assert dot_command.DOT_BINARY is before


@pytest.mark.parametrize("payload", PAYLOADS)
def test_labels_of_the_digraph_hold_hostile_words(payload: str) -> None:
    graph = Graph((GraphNode(payload, ((payload,),)), GraphNode("b")), ((0, 1),))
    digraph = dag.dot_source(graph, name=payload)
    drawn = dot.svg(digraph.source)
    assert drawn is not None, digraph.source
    nodes = [g for g in ET.fromstring(drawn).iter(f"{SVG}g") if g.get("class") == "node"]
    assert len(nodes) == 2
    own = texts(next(parsed(graph).iter(f"{SVG}svg")))[0]
    assert texts(nodes[0])[0].replace("\xa0", " ") == own
