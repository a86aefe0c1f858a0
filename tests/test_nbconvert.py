"""A22: notebooks with displays go through nbconvert: the tables are there, nothing is active."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pypandoc
import pytest
from IPython.core.formatters import DisplayFormatter

from datafast_nb import FakeModel, Filter, LLMError, LLMStep, Source
from datafast_nb.models.base import Request

HOSTILE = "<script>window.hit=1</script><img src=x onerror=hit()>"
FORMULA = "it costs $1 and $2, \\(x\\) \\input{secret} 50% of a_b & #c ~ ^"
SPEAKING = "réponse “übrig” – 日本語"


def reply(request: Request) -> Any:
    said = request.messages[-1]["content"]
    if "nr 1 " in said:
        return LLMError(f"refused: {HOSTILE}", kind="bad_request")
    return {
        "question": f"{SPEAKING} to {said[:12]}",
        "answer": HOSTILE if "nr 2 " in said else FORMULA,
    }


def shown_objects() -> dict[str, Any]:
    """A display of each kind, with failed calls, formulas and markup in texts and names."""
    rows = [
        {"id": f"a{i}", "n": i * 1_000, "text": f"nr {i} {FORMULA} {'words ' * 30}end"}
        for i in range(6)
    ]
    ask = LLMStep(
        prompt="{text}",
        output_columns=["question", "answer"],
        model=FakeModel(reply, name="scripted", price=(0.15, 0.60)),
        retry_delay=0,
    ).as_step("ask")
    articles = Source.list(rows).as_step("articles")
    pipeline = articles >> Filter(fn=lambda r: r["n"] < 5_000).as_step("small") >> ask
    result = pipeline.run(show_progress=False)
    return {
        "pipeline": pipeline,
        "estimate": pipeline.estimate(),
        "result": result,
        "trace": pipeline.run_one(0),
        "errors": result.errors,
        "graph": pipeline.graph(),
    }


# What each export has to show of each display, white space aside.
WORDS = {
    "pipeline": ("Pipeline", "articles", "small", "4 from the memo|4 memo", "● memo", SPEAKING),
    "estimate": ("free for a full run|$", "ask", "tokens in"),
    "result": (
        "4 records",
        "○ 5 new calls",
        "✕ 1 failed",
        "a0",
        "2000",
        SPEAKING,
        "$1 and $2",
    ),
    "trace": ("raw reply", "nr 0", SPEAKING, "$1 and $2"),
    "errors": ("refused", "window.hit=1", "bad_request|the request was refused"),
    "graph": ("articles", "small", "ask"),
}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    before = os.environ.get("DATAFAST_NB_HOME")
    os.environ["DATAFAST_NB_HOME"] = str(tmp_path_factory.mktemp("memo"))
    try:
        objects = shown_objects()
        cells = []
        for n, (name, shown) in enumerate(objects.items()):
            data, metadata = DisplayFormatter().format(shown)
            output = nbformat.v4.new_output(
                "execute_result", data=data, metadata=metadata, execution_count=n + 1
            )
            cell = nbformat.v4.new_code_cell(name, outputs=[output], execution_count=n + 1)
            cell["id"] = name
            cells.append(cell)
    finally:
        os.environ.pop("DATAFAST_NB_HOME")
        if before is not None:
            os.environ["DATAFAST_NB_HOME"] = before
    made = nbformat.v4.new_notebook(cells=cells)
    nbformat.validate(made)
    return made


def exported(notebook: Any, kind: str) -> str:
    import nbconvert

    body, _ = getattr(nbconvert, f"{kind}Exporter")().from_notebook_node(notebook)
    return str(body)


class Page(HTMLParser):
    """Text and elements of each output."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._depth: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._depth.append(tag)
        if tag in ("br", "td", "div"):
            self.text += " "
        if tag == "img":
            self.text += f" {dict(attrs).get('alt')} "

    def handle_endtag(self, tag: str) -> None:
        while self._depth and self._depth.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._depth):
            self.text += data


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def check_words(text: str, names: Any = WORDS) -> None:
    said = squeezed(text)
    for name in names:
        for word in WORDS[name]:
            assert any(squeezed(part) in said for part in word.split("|")), (name, word)
    assert "model not found" not in text.lower()


def outputs(page: str) -> str:
    """The outputs of a page that nbconvert made, without its own styles and scripts."""
    parts = re.findall(
        r'(<div class="jp-RenderedHTMLCommon.*?)<div id="cell-id|(<div class="jp-RenderedHTMLCommon.*)$',
        page,
        re.S,
    )
    return "".join(a or b for a, b in parts)


def test_a22_html_shows_every_display_and_runs_none_of_the_data(notebook):
    page = exported(notebook, "HTML")
    check_words(Page(page).text)
    shown = Page(outputs(page.partition("<main")[2] or page))
    tags = [tag for tag, _ in shown.elements]
    assert tags.count("table") >= 6 and tags.count("img") >= 3 and tags.count("details") >= 4
    assert not {"script", "iframe", "object", "form", "svg"} & set(tags)
    for _, attributes in shown.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:").startswith("data:")


def test_a22_html_of_a_notebook_with_markdown_outputs_alone(notebook):
    part = nbformat.from_dict(notebook)
    for cell in part.cells:
        for output in cell.outputs:
            output["data"] = {k: v for k, v in output["data"].items() if k != "text/html"}
    page = exported(part, "HTML")
    check_words(Page(page).text, set(WORDS) - {"graph"})
    assert "<script>window.hit" not in page and "<img src=x" not in page


def test_a22_markdown_shows_every_display(notebook):
    source = exported(notebook, "Markdown")
    page = Page(source)
    check_words(page.text)
    assert not {"script", "iframe", "object", "form"} & {tag for tag, _ in page.elements}
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]


@pytest.fixture
def pandoc(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(pypandoc.get_pandoc_path()).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a22_latex_shows_every_display(notebook, pandoc):
    source = exported(notebook, "Latex")
    assert source.startswith("\\documentclass") or "\\documentclass" in source[:200]
    body = source.partition("\\begin{document}")[2]
    said = squeezed(without_commands(body))
    for name, words in WORDS.items():
        for word in words:
            # Commas and quotation marks have commands of their own.
            assert any(squeezed(w) in said for w in word.split("|")), (name, word)
    # What would be a command or a comment stands escaped.
    assert "\\input{secret}" not in body
    assert not re.search(r"(?<!\\)% of", body)


def without_commands(source: str) -> str:
    """The text of LaTeX, its escapes undone."""
    for command, text in (
        ("\\textbackslash{}", "\\"),
        ("\\textbackslash ", "\\"),
        ("\\textasciitilde{}", "~"),
        ("\\textasciicircum{}", "^"),
        ("\\textbar{}", "|"),
        ("\\textless{}", "<"),
        ("\\textgreater{}", ">"),
        ("\\textquotesingle{}", "'"),
        ("{[}", "["),
        ("{]}", "]"),
        ("``", "“"),
        ("''", "”"),
        ("---", "—"),
        ("--", "–"),
        ("\\ldots{}", "…"),
    ):
        source = source.replace(command, text)
    return re.sub(r"\\([$%&#_{}])", r"\1", source)
