"""What a browser or a reader of Markdown makes of a drawing, and what may be in it."""

from __future__ import annotations

import base64
import re
import unicodedata
from functools import lru_cache
from html.parser import HTMLParser
from xml.etree import ElementTree

import mistune

TAGS = {
    *("div", "span", "b", "code", "ins", "del", "br", "img", "details", "summary"),
    *("table", "colgroup", "col", "thead", "tbody", "tr", "th", "td"),
}
VOID = {"br", "img", "col"}
ATTRIBUTES = {
    *("style", "class", "scope", "colspan", "open"),
    *("src", "alt", "title", "width", "height"),
}
SVG_TAGS = {"svg", "g", "style", "rect", "path", "text", "tspan"}
MARKDOWN_TAGS = {
    *("p", "strong", "del", "code", "pre", "br"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_markdown = mistune.create_markdown(
    escape=False, plugins=["table", "strikethrough", "url", "math", "task_lists", "footnotes"]
)

Element = tuple[str, tuple[tuple[str, str | None], ...]]


class Parsed(HTMLParser):
    """Elements and text of HTML."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.images: list[dict[str, str | None]] = []
        self.cells: list[str] = []
        """Texts of `td` and `th`, in the order in which they begin."""
        self.runs: list[tuple[tuple[str, ...], str]] = []
        """Pieces of text with the elements around them."""
        self.open: list[str] = []
        self.faults: list[str] = []
        self._in_cells: list[int] = []
        self.feed(source)
        self.close()
        self.text = "".join(text for _, text in self.runs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))
        if tag == "br":
            self.handle_data("\n")
        elif tag == "img":
            self.images.append(dict(attrs))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag in ("td", "th"):
            self._in_cells.append(len(self.cells))
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}>")
            return
        self.open.pop()
        if tag in ("td", "th"):
            self._in_cells.pop()

    def handle_data(self, data: str) -> None:
        self.runs.append((tuple(self.open), data))
        for at in self._in_cells:
            self.cells[at] += data

    def handle_comment(self, data: str) -> None:
        self.faults.append(data)

    handle_pi = unknown_decl = handle_comment

    @property
    def skeleton(self) -> list[Element]:
        """Elements with their styles; without those that stand for characters, and without measures.

        Widths follow the words: a wide letter needs more room than a narrow one.
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


def is_obeyed(char: str) -> bool:
    """Whether a terminal or a browser would do something on this character."""
    kind = unicodedata.category(char)
    return (kind in ("Cc", "Cs", "Zl", "Zp") and char not in "\n\t") or char in BIDI


def check_html(source: str) -> Parsed:
    """HTML of our own elements and styles alone, that loads nothing."""
    parsed = Parsed(source)
    assert not parsed.faults and not parsed.open
    roots = [dict(attrs).get("class") for tag, attrs in parsed.elements if dict(attrs).get("class")]
    assert roots == ["mathjax_ignore tex2jax_ignore"]
    for tag, attributes in parsed.elements:
        assert tag in TAGS, tag
        given = dict(attributes)
        assert set(given) <= ATTRIBUTES
        assert not re.search(r"[<>\\&\"(]", (given.get("style") or "").replace("rgba(", ""))
        assert "position" not in (given.get("style") or "")
        assert (tag == "img") == ("src" in given)
        for name in ("colspan", "width", "height"):
            assert (given.get(name) or "1").isdecimal()
    for image in parsed.images:
        assert image["alt"] is not None
        check_svg(image["src"] or "")
    for around, text in parsed.runs:
        # A formula would begin at a dollar sign that does not stand alone.
        assert "$" not in text or (text == "$" and around[-1] == "span")
    assert not [c for c in source if is_obeyed(c)]
    source.encode()
    return parsed


@lru_cache(maxsize=500)
def check_svg(uri: str) -> None:
    """An image is an SVG of our own shapes and words, and nothing else."""
    kind, _, data = uri.partition(",")
    assert kind == "data:image/svg+xml;base64"
    source = base64.b64decode(data, validate=True).decode()
    assert "<!" not in source and not [c for c in source if is_obeyed(c)]
    for element in ElementTree.fromstring(source).iter():
        assert element.tag.removeprefix("{http://www.w3.org/2000/svg}") in SVG_TAGS, element.tag
        for name, value in element.attrib.items():
            assert not name.lower().startswith("on") and "href" not in name
            assert not re.search(r"url\(|javascript:", value)
        if element.tag.endswith("style"):
            assert not re.search(r"url\(|@import|expression", element.text or "")


def check_markdown(source: str) -> Parsed:
    """Markdown in which nothing of the data is Markdown, HTML, a link or a formula."""
    made = _markdown(source)
    assert isinstance(made, str)
    parsed = Parsed(made)
    assert not parsed.faults and not parsed.open
    for tag, attributes in parsed.elements:
        assert tag in MARKDOWN_TAGS, (tag, source)
        for name, value in attributes:
            assert (name, value) in {
                ("style", "text-align:left"),
                ("style", "text-align:right"),
                ("class", "language-text"),
            }
    assert not [c for c in source if is_obeyed(c)]
    source.encode()
    return parsed
