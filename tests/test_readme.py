"""The code of README and of the pages on runs and models runs, and their tables are true."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.engine.loop import spawn
from datafast_nb.models import aliases, ladder
from datafast_nb.models.base import FATAL, RETRYABLE
from datafast_nb.models.verdicts import REASKABLE, REMEDIES

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RUNNING = ROOT / "docs" / "running.md"
MODELS = ROOT / "docs" / "models.md"
PAGES = (README, RUNNING, MODELS)

_FENCED = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


SERVER = "http://localhost:8000/v1"
LISTS = {
    "/v1/models": (200, {"data": [{"id": "my-model", "max_model_len": 32_768}]}),
    "/api/tags": (
        200,
        {
            "models": [
                {
                    "name": "llama3.2:latest",
                    "digest": "a80c4f17acd5" + 52 * "0",
                    "size": 2_019_393_189,
                    "details": {"parameter_size": "3.2B", "quantization_level": "Q4_K_M"},
                }
            ]
        },
    ),
}


def old_server(number: int, body: dict[str, Any]) -> str | None:
    """A server that knows JSON mode, and neither schemas nor tools."""
    if body.get("response_format", {}).get("type") == "json_schema":
        return "refuses:400:response_format.type: unknown value 'json_schema'"
    return "refuses:400:this server does not support tools" if "tools" in body else None


def blocks_of(page: Path) -> list[tuple[str, str | None]]:
    """Code blocks of a page, each with the output that the page shows right behind it, if any."""
    text = page.read_text("utf-8")
    found: list[tuple[str, str | None]] = []
    end = -1
    for match in _FENCED.finditer(text):
        kind, body = match.groups()
        if kind == "python":
            found.append((body, None))
        elif not text[end : match.start()].strip():
            found[-1] = (found[-1][0], body)
        end = match.end()
    return found


def is_shown(shown: str, printed: str) -> bool:
    """Whether the page shows what was printed: "…" is any text, in a line of its own any lines."""
    lines = [
        r"(?:.*\n)*?"
        if line.strip() == "…"
        else re.escape(line.rstrip()).replace("…", ".*") + r" *\n"
        for line in shown.splitlines()
    ]
    return re.fullmatch("".join(lines), printed) is not None


def run_page(page: Path, capsys, address: str = "") -> str:
    """Run the blocks of a page, compare what they print; all that was printed.

    `address` takes the place of the server that the page names.
    """
    said = ""
    space: dict[str, object] = {"__name__": page.stem}
    for number, (code, shown) in enumerate(blocks_of(page), start=1):
        code = code.replace(SERVER, address or SERVER)
        exec(compile(code, f"{page.name}, block {number}", "exec"), space)
        printed = capsys.readouterr().out
        if shown is not None:
            assert is_shown(shown, printed), f"{page.name}, block {number} prints:\n{printed}"
        said += printed
    for value in space.values():
        if isinstance(value, openai.AsyncOpenAI):
            spawn(value.close()).result(10)  # on the loop that opened its connections
    return said


def table_below(page: Path, *head: str) -> list[list[str]]:
    """Rows of the table whose head begins with these cells, without marks of code."""
    lines = iter(page.read_text("utf-8").splitlines())
    start = "| " + " | ".join(head)
    assert any(line.startswith(start) for line in lines), f"{page.name} has no table {head}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of its own, with servers at the addresses that the pages name."""
    monkeypatch.chdir(tmp_path)
    ladder.forget_all()
    level = logging.getLogger("datafast_nb").level
    handlers = logging.getLogger().handlers[:]
    yield tmp_path
    logging.getLogger().handlers[:] = handlers
    logging.getLogger("datafast_nb").setLevel(level)
    ladder.forget_all()


def test_readme_blocks_run_in_order(project, capsys):
    said = run_page(README, capsys)
    assert "2 new calls" in said
    assert (project / "questions.jsonl").read_text("utf-8").count("\n") == 2


def test_blocks_on_long_runs_run_in_order(project, capsys):
    run_page(RUNNING, capsys)
    assert (project / "replies.jsonl").read_text("utf-8").count("\n") == 19
    assert not (project / "night" / "checkpoint.lock").exists()
    named = re.findall(r"^\| `([^`]+)`", RUNNING.read_text("utf-8"), re.MULTILINE)
    files = [name for name in named if name.startswith("step_002") and "partial" not in name]
    assert len(files) == 2
    assert all((project / "night" / name).exists() for name in files)


def test_blocks_on_models_run_in_order(project, capsys, monkeypatch):
    for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-of-no-one")
    with StubServer(faults=old_server, pages=LISTS) as stub:
        monkeypatch.setenv("OPENAI_BASE_URL", stub.url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", stub.root)
        monkeypatch.setenv("OLLAMA_HOST", stub.root)
        run_page(MODELS, capsys, stub.url)
        paths = {request.path for request in stub.requests}
    assert {"/v1/chat/completions", "/v1/models", "/api/chat", "/api/tags"} <= paths


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_have_blocks_that_can_fail(page):
    blocks = blocks_of(page)
    assert len(blocks) >= 4
    checks = sum(code.count("assert ") + (shown is not None) for code, shown in blocks)
    assert checks >= 4


def test_what_a_page_shows_is_compared():
    assert is_shown("one … three\n…\nend\n", "one two three\na\nb\nend\n")
    assert not is_shown("one … three\n", "one two\n")
    assert not is_shown("end\n", "end\nmore\n")


def in_the_run(kind: str) -> str:
    """What the engine does about a failure of this kind."""
    if kind in FATAL or kind == "memo":
        return "stops"
    if kind in RETRYABLE:
        return "tries again"
    return "asks once more" if kind in REASKABLE else ""


def test_the_table_of_failures_is_the_one_that_messages_use():
    rows = table_below(RUNNING, "kind", "means")
    expected = [
        [kind, r.cause, in_the_run(kind), r.advice, "yes" if r.asks_again else ""]
        for kind, r in REMEDIES.items()
    ]
    assert rows == expected, "\n".join(
        f"| `{row[0]}` | {' | '.join(row[1:])} |".replace("|  |", "| |") for row in expected
    )


def test_the_table_of_short_names_is_the_one_in_the_code():
    rows = table_below(MODELS, "name", "model today")
    assert rows == [
        [a.name, a.model_id, a.was, a.until or "never was one of that name"]
        for a in aliases.ALIASES
    ]
    assert aliases.AS_OF in MODELS.read_text("utf-8")


def test_the_table_of_classes_names_their_variables():
    for row in table_below(MODELS, "class", "asks", "key"):
        kind = getattr(dfn, row[0].partition("(")[0], None)
        names = [getattr(kind, "key_name", ""), *getattr(kind, "other_key_names", ())]
        if names[0]:
            assert row[2] == ", ".join(names)


def test_the_table_of_ways_is_the_one_in_the_code():
    ways = {row[0]: row[1].split(" → ") for row in table_below(MODELS, "model", "ways, the best")}
    assert ways.pop("OpenAIModel, OpenAICompatibleModel, GeminiModel") == list(ladder.WAYS)
    for name, listed in ways.items():
        assert listed == list(getattr(dfn, name).ways), name
    assert set(ways) == {"AnthropicModel", "OllamaModel"}


def test_options_that_pages_name_exist():
    for page in PAGES:
        for name in re.findall(r"options\.([a-z_]+)", page.read_text("utf-8")):
            assert hasattr(dfn.options, name), f"{page.name}: options.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_exist(page):
    for path in re.findall(
        r"`((?:docs|benchmarks|notebooks|tests)/[\w./-]*)`", page.read_text("utf-8")
    ):
        assert (ROOT / path).exists(), path
