"""Templates: any text parses or is refused, and renders as a substitution token by token."""

from __future__ import annotations

import json
import re
from typing import Any

from datafast_nb.errors import RecordError
from datafast_nb.records import normalise_value
from datafast_nb.steps.prompts import Template, escape, field_text
from fuzz.rules import Target, declared, require

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_END = b"\x1e"  # between the template and its values

SEEDS = (
    b"Ask {text} about {topic}.\x1eone\x1etwo",
    b'Reply as {{"a": [{{"b": {x}}}]}}\x1e1',
    b"{a}{a}{b}\x1e{b}\x1e{{a}}",
    b'{}{ }{a.b}{a[0]}{a!r:>9}\x1e\x1e[1, {"k": null}]\x1e1e5\x1etrue\x1eNaN',
    "Größe {ä} \u2028 {日本}\x1e💩\x1e\u0000".encode(),
    b"{x}\x1e\xed\xa0\x80",
)
WORDS = (
    b"{",
    b"}",
    b"{{",
    b"}}",
    b"{{{",
    b"}}}",
    b"{a}",
    b"{a.b}",
    b"{a!r}",
    b"{a:>9}",
    b"%s",
    _END,
)


def oracle(text: str) -> list[tuple[str, str]] | None:
    """("text" or "field", content) of each token; None where the text is no template."""
    tokens = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in ("{", "}"):
            return None
        if match.group(1) is not None:
            tokens.append(("field", match.group(1)))
        else:
            tokens.append(("text", token[0] if token in ("{{", "}}") else token))
    return tokens


def _value(part: bytes) -> Any:
    try:
        return normalise_value(json.loads(part))
    except (ValueError, RecursionError):
        return part.decode("utf-8", "surrogateescape")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check(data: bytes) -> str:
    """Compare with the oracle."""
    head, *rest = data.split(_END)
    text = head.decode("utf-8", "surrogateescape")
    if _is_text(text):
        require(Template(escape(text)).render({}) == text, "an escaped text is another text")
        require(not Template(escape(text)).fields, "an escaped text has fields")
    tokens = oracle(text)
    with declared(ValueError) as refused:
        template = Template(text)
    if refused:
        require(tokens is None, f"a template is refused: {refused[0]}")
        require("line " in str(refused[0]), "a refusal without a place")
        return f"refused {re.sub('[0-9]+', '', str(refused[0]))[:40]}"
    if tokens is None:
        require(False, "a lone brace is taken")
        return ""
    names = list(dict.fromkeys(name for kind, name in tokens if kind == "field"))
    require(list(template.fields) == names, "other fields")
    if len(names) > len(rest):
        with declared(KeyError) as missing:
            template.render({})
        require(bool(missing) == bool(names), "a field without a value is rendered")
    values = {name: _value(rest[i]) if i < len(rest) else "v" for i, name in enumerate(names)}
    with declared(RecordError) as bad:
        shown = {name: field_text(value) for name, value in values.items()}
    if bad:
        return "value refused"
    for name, value in values.items():
        require(not isinstance(value, str) or shown[name] == value, "a text is changed")
    wanted = "".join(shown[part] if kind == "field" else part for kind, part in tokens)
    with declared(RecordError) as bad:
        made = template.render(values)
    require(bool(bad) != _is_text(wanted), "surrogates")
    require(bool(bad) or made == wanted, "rendered otherwise")
    kinds = "".join(sorted({type(v).__name__[0] for v in values.values()}))
    return f"{min(len(tokens), 9)} {min(len(names), 5)} {kinds} {bool(bad)}"


TARGET = Target("template", SEEDS, WORDS, check)
