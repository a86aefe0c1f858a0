"""Real objects of every kind that a cell can end with, and what each of their displays owes."""

from __future__ import annotations

import base64
import contextlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mistune
from IPython.core.formatters import DisplayFormatter

import datafast_nb as dfn
from datafast_nb import (
    FakeModel,
    Filter,
    FlatMap,
    LLMError,
    LLMStep,
    LocalModel,
    Map,
    OpenAICompatibleModel,
    OpenAIModel,
    Pipeline,
    Result,
    Sample,
    Seed,
    Sink,
    Source,
)
from datafast_nb.models.base import Request

Bundle = dict[str, str]
FORMS = ("text/plain", "text/html", "text/markdown")
HARD_BYTES = 200_000
TYPICAL_BYTES = 60_000

TAGS = {
    *("div", "span", "b", "br", "img", "table", "thead", "tbody", "tr", "th", "td"),
    *("details", "summary", "code", "ins", "del"),
}
ATTRIBUTES = {"style", "class", "scope", "colspan", "open", "src", "alt", "title", "width"}
ATTRIBUTES |= {"height"}
MARKDOWN_TAGS = {
    *("p", "strong", "del", "code", "pre", "br"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
SVG_TAGS = {"svg", "g", "style", "rect", "path", "polygon", "polyline", "line", "text", "tspan"}
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_MARKDOWN = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url", "math"])

Element = tuple[str, tuple[tuple[str, str | None], ...]]


_FORMATTER = DisplayFormatter()


def shown(obj: Any) -> Bundle:
    """What a notebook gets of an object that a cell ends in."""
    data, _ = _FORMATTER.format(obj)
    return {form: str(data[form]) for form in FORMS if form in data}


class Parsed(HTMLParser):
    """Elements and text of an HTML fragment, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.cells: list[str] = []
        """Text of each cell of a table, in reading order; that of a table inside it stands apart."""
        self.summaries: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.other: list[str] = []
        self.text = ""
        self._cell: list[int] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))
        if tag in ("br", "img"):
            self.text += "\n" if tag == "br" else ""
            if tag == "img":
                self.images.append(dict(attrs))
            return
        self.open.append(tag)
        if tag == "div":
            self.handle_data("\n")
        if tag in ("td", "th"):
            self.text += " "
            self._cell.append(len(self.cells))
            self.cells.append("")
        if tag == "summary":
            self.summaries.append("")

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.unbalanced.append(tag)
        if tag in ("td", "th") and self._cell:
            self._cell.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.cells[self._cell[-1]] += data
        if "summary" in self.open:
            self.summaries[-1] += data

    def handle_comment(self, data: str) -> None:
        self.other.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment

    @property
    def skeleton(self) -> list[Element]:
        """Elements but those that stand for a character, without measures and images' words.

        Measures follow the words: a wide letter needs more room than a narrow one.
        """
        out: list[Element] = []
        for tag, attrs in self.elements:
            if (tag, attrs) in (("span", ()), ("br", ())):
                continue
            kept = tuple(
                (k, re.sub(r"\d[\d.]*", "0", v or "") if k == "style" else v)
                for k, v in attrs
                if k not in ("src", "alt", "title", "width", "height")
            )
            out.append((tag, kept))
        return out


def obeyed(text: str) -> list[str]:
    """Characters on which a terminal or a browser would do something; line ends and tabs aside."""
    return sorted(
        c
        for c in set(text) - {"\n", "\t"}
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI
    )


@dataclass(frozen=True)
class Display:
    """The forms of one object, read as a browser and a viewer of Markdown read them."""

    bundle: Bundle

    @property
    def plain(self) -> str:
        return self.bundle["text/plain"]

    @property
    def source(self) -> str:
        return self.bundle["text/html"]

    @cached_property
    def page(self) -> Parsed:
        return Parsed(self.source)

    @cached_property
    def read(self) -> Parsed:
        return Parsed(str(_MARKDOWN(self.bundle["text/markdown"])))

    @property
    def texts(self) -> tuple[str, str, str]:
        """Words of the three forms."""
        return self.plain, self.page.text, self.read.text

    def shows(self, word: str) -> bool:
        """Whether every form shows the word; where lines were broken is no matter."""
        wanted = without_space(word)
        return all(wanted in without_space(text) for text in self.texts)


def check(obj: Any) -> Display:
    """What every display owes: all forms, safe, bounded, the same twice, no address."""
    display = check_forms(shown(obj))
    assert shown(obj) == display.bundle
    return display


def check_forms(bundle: Bundle) -> Display:
    """The same, of forms that are drawn already; whether they come out the same is not asked."""
    assert tuple(bundle) == FORMS
    display = Display(bundle)
    assert all(text.strip() for text in display.texts)
    assert "\t" not in display.plain  # where it leads to, nobody knows
    for form in bundle.values():
        assert not obeyed(form)
        assert len(form.encode()) <= HARD_BYTES
        assert not re.search(r"\b0x[0-9a-f]{6,}\b", form)
    _check_html(display.page)
    _check_markdown(display.read)
    return display


def _check_html(page: Parsed) -> None:
    """The fragment is made of our own elements alone and loads nothing."""
    assert not page.unbalanced and not page.open and not page.other
    for tag, attributes in set(page.elements):
        assert tag in TAGS, tag
        assert {name for name, _ in attributes} <= ATTRIBUTES
        given = dict(attributes)
        assert given.get("class") in (None, "mathjax_ignore tex2jax_ignore")
        style = given.get("style") or ""
        assert not re.search(r"url\(|expression|position|[<>\\&@]", style), style
        assert (tag == "img") == ("src" in given)
    for image in page.images:
        check_svg(image["src"] or "")
        assert image["alt"]


@lru_cache(maxsize=500)
def check_svg(uri: str) -> None:
    """An image is an SVG of our own shapes and words, and nothing else."""
    kind, _, data = uri.partition(",")
    assert kind == "data:image/svg+xml;base64"
    source = base64.b64decode(data, validate=True).decode()
    assert "<!DOCTYPE" not in source and "<!ENTITY" not in source and not obeyed(source)
    for element in ElementTree.fromstring(source).iter():
        assert element.tag.removeprefix("{http://www.w3.org/2000/svg}") in SVG_TAGS, element.tag
        for name, value in element.attrib.items():
            assert not name.lower().startswith("on") and "href" not in name
            assert "url(" not in value and "javascript:" not in value
        if element.tag.endswith("style"):
            assert not re.search(r"url\(|@import|expression", element.text or "")


def _check_markdown(read: Parsed) -> None:
    """Nothing of the data is Markdown, HTML or a formula."""
    assert not read.unbalanced and not read.open and not read.other
    for tag, attributes in set(read.elements):
        assert tag in MARKDOWN_TAGS, tag
        for name, value in attributes:
            assert (name, value) in {
                *(("style", f"text-align:{side}") for side in ("left", "right")),
                ("class", "language-text"),
            }


def without_space(text: str) -> str:
    """Characters of a text in their order."""
    return "".join(text.split())


# Objects.


def ask(word: str, model: Any, **more: Any) -> LLMStep:
    given = {"prompt": "Say {text}", "output_columns": ["answer"], "model": model} | more
    return LLMStep(**given, retry_delay=0).as_step(word)


def failing(word: str) -> FakeModel:
    """Answers with the word, but fails with it where the prompt has the number 1."""

    def answer(request: Request) -> Any:
        if request.messages[-1]["content"].endswith("1"):
            return LLMError(word, kind="bad_request")
        return word

    return FakeModel(answer, name=word, provider=word, latency_s=0.001)


def keep(record: dict[str, Any]) -> dict[str, Any]:
    return record


def refuse(record: dict[str, Any]) -> bool:
    return False


def records(word: str) -> list[dict[str, Any]]:
    return [{"text": f"{word} {i}", word: [word, {word: word}], "n": i} for i in range(3)]


def in_template(word: str) -> str:
    """The word as a template's literal text."""
    return word.replace("{", "{{").replace("}", "}}")


def results(word: str) -> dict[str, Any]:
    """Objects that stand on a run in which one of three calls fails, every text of them the word."""
    model = failing(word)
    out = f"{word} out"
    source = Source.list(records(word)).as_step(f"{word} source")
    pipeline = source >> ask(word, model, output_columns=[out])
    other = source >> ask(
        word, model, prompt=f"{in_template(word)}: {{text}}", output_columns=[out]
    )
    result = pipeline.run()
    run = pipeline.start()
    run.result(20)

    def fail(record: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(word)

    failed_run = (source >> Map(fail).as_step(word)).start()
    with contextlib.suppress(Exception):
        failed_run.result(20)
    return {
        "answered pipeline": pipeline,
        "answered preview": pipeline.preview(),
        "answered estimate": pipeline.estimate(),
        "result": result,
        "slice": result[:1],
        "records before a step": result.at(0),
        "dropped records": result.dropped(1),
        "errors": result.errors,
        "funnel": result.funnel,
        "ledger": result.ledger,
        "finished trace": pipeline.run_one(0),
        "failed trace": pipeline.run_one(1),
        "trace of an output": result.trace(0),
        "why an answer": result.why(0, out),
        "why a value": result.why(0, word),
        "comparison": dfn.diff(result, other.run(), names=("a", word + " b")),
        "comparison of pipelines": dfn.diff(pipeline, other),
        "run": run,
        "failed run": failed_run,
        "memo": dfn.memo.info(),
    }


def descriptions(word: str) -> dict[str, Any]:
    """Objects that describe a pipeline, every text of them the word."""
    source = Source.list(records(word))
    model = FakeModel(word, name=word, provider=word)
    pipeline = source >> Map(keep).as_step(word) >> ask(f"{word} ask", model)
    filtered = source >> Filter(fn=refuse).as_step(word) >> ask(f"{word} ask", model)

    def fail(record: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(word)

    return {
        "pipeline": pipeline,
        "preview": pipeline.preview(),
        "estimate": pipeline.estimate(),
        "compiled": pipeline.compile(),
        "filtered trace": filtered.run_one(where={"n": 0}),
        "empty result": filtered.run(),
        "pipeline that raises": source >> Map(fail).as_step(word),
        "broken pipeline": source >> Map(keep).as_step(word) >> Map(keep).as_step(word),
        "pipeline without model": source >> LLMStep(prompt="{text}", output_columns=[word]),
        "missing column": source
        >> LLMStep(prompt="{text}", input_columns=[word + "x"], output_columns=["a"], model=model),
        "LLM step": ask(word, model, prompt=in_template(word), system_prompt=in_template(word)),
        "map": Map(keep).as_step(word),
        "filter": Filter(fn=refuse).as_step(word),
        "model": model,
        "compatible model": OpenAICompatibleModel(word, "http://127.0.0.1:9/v1"),
        "source": source.as_step(word),
        "seed": Seed.product(Seed.values(word, [word, "b"])),
        "sample": Sample([word, "b"], n=1),
        "result without run": Result(records(word)),
    }


def every_object(word: str, folder: Path) -> dict[str, Any]:
    """Both, and the kinds that take no words."""
    table = folder / "some.csv"
    table.write_text("text,n\nx,1\n", "utf-8")
    more = {
        "OpenAI model": OpenAIModel("gpt-4o-mini"),
        "local model": LocalModel(),
        "file": Source.file(str(table)),
        "list sink": Sink.list(),
        "file sink": Sink.jsonl(str(folder / "out.jsonl")),
        "flat map": FlatMap(lambda r: [r]),
        "sample of records": Sample(n=2),
        "memo card": dfn.memo,
        "pipeline of a source": Pipeline([Source.list([{"a": 1}])]),
    }
    return {**results(word), **descriptions(word), **more}


def all_shown(make: Callable[[str], dict[str, Any]], word: str) -> dict[str, Bundle]:
    """What is shown now of the objects that `make` makes of a word."""
    return {name: shown(obj) for name, obj in make(word).items()}
