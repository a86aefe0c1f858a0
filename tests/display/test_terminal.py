"""A24: displays in terminals of all kinds: no colours in pipes, no crash, marks readable."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from IPython.lib.pretty import pretty
from parsed import is_obeyed
from rich.console import Console

from datafast_nb.display.shown import Shown, one_line
from datafast_nb.display.text import display_width, draw
from datafast_nb.display.views import SIGNS, Document, Head, Paragraph, Section, Span
from datafast_nb.options import options

PIPELINE = """
from datafast_nb import FakeModel, LLMError, LLMStep, Source, options
def reply(request):
    text = request.messages[-1]["content"]
    return LLMError("no \\x1b[31mred\\x1b[0m \\u202e", kind="bad_request") if "2" in text else "r\\u00e9ponse " * 9
rows = [{"id": i, "text": f"Articl\\u00e9 {i} \\u2264 \\u65e5\\u672c"} for i in range(5)]
ask = LLMStep(prompt="About {text}", output_columns=["answer"], model=FakeModel(reply), retry_delay=0)
pipe = Source.list(rows).as_step("articles") >> ask.as_step("ask")
"""
SHOW = """
result = pipe.run(show_progress=False)
for obj in (result, pipe.estimate(), pipe.run_one(0), result.errors, result.funnel, pipe.preview()):
    print(obj)
print(pipe.visualize())
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "TERM")
    }
    kept |= {"DATAFAST_NB_HOME": str(home / "memo"), "PYTHONUTF8": "0", "HOME": str(home)}
    return kept | {"TERM": "xterm-256color", "FORCE_COLOR": "1"} | more


def run(home: Path, *command: str, given: str = "", **env: str) -> bytes:
    done = subprocess.run(
        command,
        input=given.encode(),
        capture_output=True,
        cwd=home,
        env=environment(home, **env),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def check(out: str, width: int) -> None:
    assert not [c for c in out if is_obeyed(c)]
    assert max(display_width(line) for line in out.split("\n")) <= width


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a24_a_pipe_gets_plain_text_as_wide_as_it_says(tmp_path, width):
    out = run(
        tmp_path,
        sys.executable,
        "-c",
        PIPELINE + SHOW,
        PYTHONIOENCODING="utf-8",
        COLUMNS=str(width),
    ).decode()
    check(out, width)
    for word in ("○ new", "✕ failed", "● 1 from the memo", "réponse", "\\x1b[31mred", "\\u202e"):
        assert word in out, word


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:replace"])
def test_a24_an_output_that_takes_no_marks_gets_ascii(tmp_path, encoding):
    raw = run(
        tmp_path, sys.executable, "-c", PIPELINE + SHOW, PYTHONIOENCODING=encoding, COLUMNS="80"
    )
    out = raw.decode("ascii")
    check(out, 80)
    for word in ("o new", "x failed", "* 1 from the memo", "r\\xe9ponse", "\\u65e5"):
        assert word in out, word
    assert "?" not in out.replace("?}", "")


def test_a24_no_color_changes_nothing_since_there_is_none(tmp_path):
    code = PIPELINE + "print(pipe.estimate())"
    plain = run(tmp_path, sys.executable, "-c", code, PYTHONIOENCODING="utf-8")
    assert (
        run(tmp_path, sys.executable, "-c", code, PYTHONIOENCODING="utf-8", NO_COLOR="1") == plain
    )
    assert run(tmp_path, sys.executable, "-c", code, PYTHONIOENCODING="utf-8", TERM="dumb") == plain
    assert b"\x1b" not in plain


def test_a24_ascii_can_be_asked_for_and_refused(tmp_path):
    code = PIPELINE + "options.ascii = True\nprint(pipe.run(show_progress=False))"
    out = run(tmp_path, sys.executable, "-c", code, PYTHONIOENCODING="utf-8")
    assert out.isascii() and b"o new" in out
    code = code.replace("ascii = True", "ascii = False")
    out = run(tmp_path, sys.executable, "-c", code, PYTHONIOENCODING="ascii:replace")
    assert b"? 4 from the memo" in out


def test_a24_a_closed_pipe_is_no_error_of_ours(tmp_path):
    done = subprocess.run(
        f'{sys.executable} -c "$CODE" | head -n 1',
        shell=True,
        capture_output=True,
        env=environment(tmp_path, PYTHONIOENCODING="utf-8", CODE=PIPELINE + SHOW),
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.stdout.decode().startswith("4 records")
    assert b"datafast_nb" not in done.stderr


@pytest.mark.parametrize("width", [60, 200])
def test_a24_ipython_shows_what_a_cell_ends_in(tmp_path, width):
    given = PIPELINE.replace("def reply", "\ndef reply").replace("rows =", "\nrows =")
    given += (
        "\nresult = pipe.run(show_progress=False)\nresult\npipe\npipe.estimate()\n"
        "[result, pipe.estimate()]\n{'result': result}\nresult.errors\n"
    )
    out = run(
        tmp_path,
        *(sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"),
        given=given,
        PYTHONIOENCODING="utf-8",
        COLUMNS=str(width),
        IPYTHONDIR=str(tmp_path / "ipython"),
    ).decode()
    assert not [c for c in out if is_obeyed(c)]
    assert "Traceback" not in out
    for words in ("○ new", "✕ failed", "Pipeline(2 steps", "● memo"):
        assert words in out, words
    assert re.search(r"\[<Result: 4 records .*>,\s+<ExecutionEstimate: .*>\]", out)
    assert re.search(r"\{'result': <Result: 4 records .*>\}", out)


# As parts of other things.


@dataclass(repr=False)
class Thing(Shown):
    document: Document

    def view(self) -> Document:
        return self.document


LONG_TITLE = Thing(Document((Head("a title " * 40, ("and facts",)), Section("part"))))
SHORT = Thing(Document((Head("3 records", ("complete",)), Paragraph(("words",)))))


def test_an_object_alone_is_shown_in_full_and_one_line_inside_others():
    assert pretty(SHORT) == repr(SHORT) == "3 records complete\nwords"
    assert pretty([SHORT, {"a": SHORT}]) == (
        "[<Thing: 3 records complete>, {'a': <Thing: 3 records complete>}]"
    )
    assert pretty((LONG_TITLE,)).startswith("(<Thing: a title a title")


def test_the_line_is_bounded_and_follows_the_encoding():
    assert len(one_line(LONG_TITLE)) <= 110
    assert one_line(Thing(Document(()))) == "<Thing>"
    odd = Thing(Document((Head("é\n\x1b[31m ≤", ("●",)),)))
    assert one_line(odd) == "<Thing: é \\x1b[31m ≤ ●>"
    options.ascii = True
    assert one_line(odd) == "<Thing: \\xe9 \\x1b[31m <= *>"


class Breaks(Shown):
    def view(self) -> Document:
        raise RuntimeError("<b>no</b> \x1b[31m")


class CannotBeDrawn(Shown):
    def view(self) -> Document:
        return Document((Paragraph(5),))  # type: ignore[arg-type]


@pytest.mark.parametrize("thing", [Breaks(), CannotBeDrawn()], ids=["breaks", "cannot be drawn"])
def test_what_cannot_be_shown_says_so_in_every_form(thing):
    forms = (repr(thing), thing._repr_html_(), thing._repr_markdown_(), pretty(thing))
    for form in (*forms, *thing._repr_mimebundle_().values()):
        assert "Nothing to show" in form and "cannot be shown" in form
        assert "\x1b" not in form
    assert "<b>no" not in thing._repr_html_() + thing._repr_markdown_()
    assert one_line(thing)


def test_only_forms_that_are_asked_for_are_drawn():
    assert set(SHORT._repr_mimebundle_()) == {"text/plain", "text/html", "text/markdown"}
    assert set(SHORT._repr_mimebundle_(include={"text/html"})) == {"text/html"}
    assert "text/html" not in SHORT._repr_mimebundle_(exclude={"text/html"})


# Rich.


class Text:
    """What `rich.text.Text` keeps of its text: all, without markup."""

    def __init__(self, plain: str) -> None:
        self.plain = plain


@dataclass
class ConsoleOptions:
    max_width: int
    ascii_only: bool = False


@pytest.fixture
def rich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module: Any = types.ModuleType("rich.text")
    module.Text = Text
    monkeypatch.setitem(sys.modules, "rich", types.ModuleType("rich"))
    monkeypatch.setitem(sys.modules, "rich.text", module)
    yield


def test_rich_gets_plain_text_in_the_width_of_its_console(rich):
    line = (*("[bold]markup[/] ", Span("words " * 20)), "1 2 3")
    thing = Thing(Document((Head("[red]title[/]"), Paragraph(line))))
    for width in (50, 120):
        [made] = thing.__rich_console__(None, ConsoleOptions(width))
        assert isinstance(made, Text)
        assert made.plain == draw(thing.document, width)
        assert "[bold]markup[/]" in made.plain
        assert max(map(len, made.plain.split("\n"))) <= width
    [made] = Thing(Document((Paragraph(("é ●",)),))).__rich_console__(
        None, ConsoleOptions(80, True)
    )
    assert made.plain == "\\xe9 *"
    [made] = Breaks().__rich_console__(None, ConsoleOptions(80))
    assert "cannot be shown" in made.plain


def test_rich_itself_prints_it_as_it_is():
    terminal = Console(width=60, force_terminal=True, color_system="truecolor")
    with terminal.capture() as captured:
        terminal.print(Thing(Document((Head("[red]1 title[/]"),))))
    assert captured.get() == "[red]1 title[/]\n"


def test_marks_are_one_sign_each():
    assert all(len(sign) == 1 and display_width(sign) == 1 for sign in SIGNS.values())
