"""Texts that would be obeyed, and keys: what displays of real pipelines make of them (A25, A26)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import traceback
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from display.payloads import LONG, PAYLOADS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shown_objects import (
    Display,
    Element,
    Parsed,
    all_shown,
    ask,
    check,
    check_forms,
    descriptions,
    keep,
    obeyed,
    results,
    shown,
    without_space,
)
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb import (
    FakeModel,
    LLMError,
    LLMStep,
    Map,
    Model,
    OpenAICompatibleModel,
    OpenAIModel,
    Result,
    Sink,
    Source,
    options,
)
from datafast_nb.models.base import Request
from datafast_nb.store.memo import close_memos, open_memo

# Of these all is shown in every place; longer ones are cut in cells.
WHOLE = [p for p, visible in PAYLOADS.items() if len(visible) <= 48]
# A lone surrogate cannot be sent to a model or looked up in a memo: it is refused before it is shown.
SENDABLE = [p for p in WHOLE if not re.search("[\ud800-\udfff]", p)]
# For the time it takes, two of three go through whole runs, the others into descriptions alone.
RUN = [p for i, p in enumerate(SENDABLE) if i % 3]
DESCRIBED = [p for p in PAYLOADS if p not in RUN] + RUN[::8]
# What would end our own markup, and what looks just like it.
BREAKOUTS = (
    "</td></tr></tbody></table>",
    "</summary></details><br>",
    '"><img src="x" alt="y">',
    '</b><b style="font-weight:600">x',
    "</span></div><div>x</div>",
    "' style='x' alt='",
    "<br><span>$</span><br>",
    "&lt;/td&gt;<td>&#60;tr&#62;",
)
# Changes of words, and settings in a message, are elements of their own.
FOLLOW_THE_WORDS = (
    *("comparison", "comparison of pipelines"),
    *("missing column", "pipeline without model"),
)
WORDLESS = {"run"}
"""A run that went well names none of its steps."""


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@lru_cache(maxsize=1)
def own_elements(home: Path) -> frozenset[Element]:
    """Every element that displays of harmless words are made of."""
    found: set[Element] = set()
    for i, word in enumerate(("plain", "a name of some forty characters at least", "x" * 48)):
        options.home = home / str(i)
        for make in (results, descriptions):
            for bundle in all_shown(make, word).values():
                found.update(Parsed(bundle["text/html"]).skeleton)
    return frozenset(found)


@pytest.fixture(scope="module")
def elements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[frozenset[Element]]:
    before = options.home
    try:
        yield own_elements(tmp_path_factory.mktemp("harmless"))
    finally:
        options.home = before


def shows(display: Display, payload: str) -> bool:
    """Every form has the text, or the text as Python writes it where it stands in quotes."""
    wanted = [without_space(w) for w in (PAYLOADS[payload], repr(payload)[1:-1])]
    texts = [without_space(text) for text in display.texts]
    return all(any(w in text for w in wanted) for text in texts)


# A26: texts are shown and not obeyed.


def test_there_are_enough_payloads_of_every_kind():
    assert len(RUN) >= 40 and len(PAYLOADS) >= 60
    kinds = (
        "<script",
        "onerror",
        "javascript:",
        "<style",
        "&lt;",
        "](",
        "$",
        "\x1b",
        "\u202e",
        "\x00",
    )
    for kind in kinds:
        assert any(kind in p for p in PAYLOADS), kind


@pytest.mark.parametrize("payload", DESCRIBED, ids=ascii)
def test_a26_text_of_descriptions_is_shown_and_never_obeyed(payload, elements):
    for name, bundle in all_shown(descriptions, payload).items():
        display = check_forms(bundle)
        assert set(display.page.skeleton) <= elements, name
        assert shows(display, payload) or payload not in WHOLE, name


@pytest.mark.parametrize("payload", RUN, ids=ascii)
def test_a26_text_of_runs_is_shown_and_never_obeyed(payload, elements):
    for name, bundle in all_shown(results, payload).items():
        display = check_forms(bundle)
        assert set(display.page.skeleton) <= elements, name
        assert shows(display, payload) or name in WORDLESS, name


@pytest.mark.parametrize("payload", BREAKOUTS, ids=ascii)
def test_a26_a_display_has_the_elements_that_it_has_with_any_other_word(payload, tmp_path):
    def pages(word: str, home: str) -> dict[str, Parsed]:
        options.home = tmp_path / home
        objects = {**results(word), **descriptions(word)}
        return {
            name: Parsed(obj._repr_mimebundle_(include=["text/html"])["text/html"])
            for name, obj in objects.items()
            if name not in FOLLOW_THE_WORDS
        }

    other = pages(re.sub(r"\S", "x", payload), "other")
    for name, page in pages(payload, "hostile").items():
        assert page.skeleton == other[name].skeleton, name
        assert name in WORDLESS or payload in page.text, name


@pytest.mark.parametrize("text", LONG, ids=lambda t: ascii(t[:9]))
def test_a26_long_texts_are_cut_and_not_obeyed(text):
    pipeline = Source.list([{"text": text, "n": i} for i in range(2)]) >> ask(
        "ask", FakeModel(text)
    )
    for obj in (pipeline, pipeline.run(), pipeline.run_one(0)):
        check_forms(shown(obj))


def test_a26_reports_obey_nothing(tmp_path):
    payloads = SENDABLE[::4]

    def answer(request: Request) -> Any:
        said = request.messages[-1]["content"].removeprefix("Say ")
        return LLMError(said, kind="bad_request") if said == payloads[3] else said

    source = Source.list([{"text": p, p: p} for p in payloads]).as_step(payloads[0])
    result = (source >> ask(payloads[1], FakeModel(answer, name=payloads[2]))).run()
    written = result.report(tmp_path / "report.html", title=payloads[0]).read_text("utf-8")
    page = Parsed(written)
    assert not obeyed(written)
    assert not {"script", "iframe", "object", "embed", "base", "form", "link", "a"} & {
        tag for tag, _ in page.elements
    }
    for _, attributes in page.elements:
        assert not [name for name, _ in attributes if name.startswith("on") or name == "href"]
        assert all(v is None or v.startswith("data:image/svg") for k, v in attributes if k == "src")
    for payload in payloads:
        assert without_space(PAYLOADS[payload]) in without_space(page.text)


@pytest.mark.parametrize("payload", list(PAYLOADS), ids=ascii)
def test_a26_reprs_graphs_and_errors_obey_no_control_character(payload):
    source = Source.list([{payload: payload}]).as_step(payload)
    step = Map(keep).as_step(payload)
    model = FakeModel(payload, name=payload)
    llm = LLMStep(prompt="hello", output_columns=[payload], model=model)
    missing = LLMStep(prompt="{x}", output_columns=["y"], model=model).as_step(payload)
    texts = [
        *map(
            repr,
            (
                source,
                step,
                llm,
                model,
                source >> step,
                Sink.jsonl(f"{payload}.jsonl".replace("\0", "")),
            ),
        ),
        (source >> step >> llm).visualize(),
        repr((source >> step >> llm).graph()),
    ]
    for broken in (source >> missing, source >> step >> step):
        with pytest.raises(dfn.DatafastError) as raised:
            broken.compile()
        texts.append(str(raised.value))
    for text in texts:
        assert text
        assert not obeyed(text), ascii(text)
        text.encode("utf-8")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40), st.text(min_size=1, max_size=12))
def test_a26_any_text_in_values_and_columns_stays_text(value, column):
    display = check(Result([{f"c{column}": value, "other": [value, {column: value}]}]))
    plain = check(Result([{"c": "v", "other": ["w", {"x": "w"}]}]))
    # A list is cut where it is long: then it opens.
    extra = set(display.page.skeleton) - set(plain.page.skeleton)
    assert {tag for tag, _ in extra} <= {"details", "summary", "div", "span"}
    assert display.page.open == [] and len(display.page.cells) == len(plain.page.cells)


def test_a26_no_dollar_sign_stands_where_a_notebook_would_look_for_a_formula():
    model = FakeModel("costs $1 and $2", name="$m$")
    pipeline = Source.list([{"$a$": "$1 and $2", "text": "$3"}]) >> ask("$s$", model)
    result = pipeline.run()
    assert result.ledger
    for obj in (pipeline, result, result.ledger, result.trace(0), Result([{"$a$": "$1 and $2"}])):
        source = shown(obj)["text/html"]
        assert re.match(r'<div class="mathjax_ignore tex2jax_ignore"', source)
        without_images = re.sub(r'(src|alt|title)="[^"]*"', "", source)
        assert without_images.count("$") == without_images.count("<span>$</span>") >= 3


@pytest.mark.parametrize(
    "payload", [p for p in SENDABLE if "/" not in p and "\x00" not in p], ids=ascii
)
def test_a26_the_name_of_a_file_that_never_was_is_shown(payload):
    display = check(Source.file(f"{payload}.csv"))
    assert all("there is no file" in text for text in display.texts)
    assert without_space(f"{PAYLOADS[payload]}.csv") in without_space(display.page.text)


# A25: keys are nowhere.

KEY = "sk-planted-9f8e7d6c5b4a3210ZYXW"
ENV_KEY = "env6Romeo33CrimsonFalcon"
PASSWORD = "pw9Zebra77Quartz"
QUERY_KEY = "qk8Tango55Violet"
HEADER_KEY = "hk7Oscar44Indigo"
PLANTED = (KEY, ENV_KEY, PASSWORD, QUERY_KEY, HEADER_KEY)


def assert_no_key(text: str, where: str) -> None:
    """Neither a key nor its middle stands in the text, also not broken by white space or escapes."""
    squeezed = re.sub(r"[\s\\]", "", text)
    for key in PLANTED:
        for part in (key, key[4:-4]):
            assert part not in text and part not in squeezed, f"{part} in {where}"


class Careless(Model):
    """A user's own class, that puts what it sent into the text of its error."""

    name, provider = "careless", "own"

    def __init__(self, api_key: str, error: type[Exception]) -> None:
        self.api_key = api_key
        self.error = error

    async def complete(self, request: Request) -> Any:
        said = f"refused: Authorization: Bearer {KEY}; token {os.environ['OPENAI_API_KEY']}"
        if request.messages[-1]["content"].endswith("3"):
            return dfn.models.base.Response("fine")
        raise LLMError(said, kind="bad_request") if self.error is LLMError else self.error(said)


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with StubServer(
        faults=lambda n, body: "401" if body["messages"][-1]["content"].endswith("2") else None
    ) as it:
        yield it


def models_with_keys(url: str) -> dict[str, Model]:
    headers = {"x-api-key": HEADER_KEY}
    return {
        "given": OpenAICompatibleModel("m1", url, api_key=KEY, headers=headers),
        "in the address": OpenAICompatibleModel(
            "m2", url.replace("://", f"://user:{PASSWORD}@"), api_key=KEY
        ),
        "in the query": OpenAICompatibleModel("m3", f"{url}?key={QUERY_KEY}", api_key=KEY),
        "careless": Careless(KEY, LLMError),
        "more careless": Careless(KEY, RuntimeError),
    }


def all_of(pipeline: dfn.Pipeline, result: Result) -> dict[str, Any]:
    """Every object about a run."""
    objects: dict[str, Any] = {
        "pipeline": pipeline,
        "step": pipeline.steps[1],
        "preview": pipeline.preview(),
        "estimate": pipeline.estimate(),
        "compiled": pipeline.compile(),
        "result": result,
        "errors": result.errors,
        "ledger": result.ledger,
        "funnel": result.funnel,
        "comparison": dfn.diff(result, pipeline),
        "memo": dfn.memo.info(),
    }
    for i, row in enumerate(result):
        objects[f"why {i}"] = result.why(i, "answer")
        objects[f"trace {i}"] = result.trace(i)
        assert row
    for i in range(4):
        with contextlib.suppress(dfn.DatafastError):
            objects[f"one {i}"] = pipeline.run_one(i)
    return objects


@pytest.mark.parametrize(
    "where", ["given", "in the address", "in the query", "careless", "more careless"]
)
def test_a25_secrets_are_in_no_display_file_or_error(
    where, stub, tmp_path, monkeypatch, caplog, capsys
):
    monkeypatch.setenv("OPENAI_API_KEY", ENV_KEY)
    model = models_with_keys(stub.url)[where]
    step = LLMStep(prompt="Say {text}", output_columns=["answer"], model=model, max_retries=0)
    pipeline = Source.list([{"text": f"{i}"} for i in range(4)]) >> step.as_step("ask")
    with caplog.at_level("DEBUG"):
        try:
            pipeline.run(max_concurrent=1)
        except dfn.DatafastError as exc:
            assert_no_key("".join(traceback.format_exception(exc)), "the traceback")
    result = dfn.last
    assert result is not None and result.errors, "the case must have a failed call"
    notebook = nbformat.v4.new_notebook()
    for name, obj in {**all_of(pipeline, result), "model": model}.items():
        bundle = shown(obj)
        for form, text in bundle.items():
            assert_no_key(text, f"{name}, {form}")
        assert_no_key(repr(obj), f"repr of {name}")
        output = nbformat.v4.new_output("display_data", data=bundle)
        notebook.cells.append(nbformat.v4.new_code_cell(outputs=[output]))
    for error in result.errors:
        assert_no_key(repr(error) + json.dumps(error.to_dict()), "an error")
    assert_no_key(json.dumps(result.to_dict(), default=str), "the result as a dict")
    assert_no_key(result.calls.to_json(date_format="iso"), "the calls")
    assert_no_key(caplog.text + "".join(capsys.readouterr()), "the log")
    nbformat.write(notebook, tmp_path / "saved.ipynb")
    result.report(tmp_path / "report.html")
    open_memo().export(tmp_path / "calls.jsonl")
    close_memos()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".ipynb", ".html", ".jsonl", ".db"}
    for path in written:
        assert_no_key(path.read_bytes().decode("latin-1"), path.name)


def test_a25_secrets_model_cards_say_whether_a_key_is_there_and_not_which(monkeypatch):
    assert all("OPENAI_API_KEY" in text for text in check(OpenAIModel("gpt-4o-mini")).texts)
    monkeypatch.setenv("OPENAI_API_KEY", ENV_KEY)
    for model in (OpenAIModel("gpt-4o-mini"), OpenAIModel("gpt-4o-mini", api_key=KEY)):
        display = check(model)
        assert "missing" not in display.plain and re.search(r"key +set", display.plain)
        assert_no_key(json.dumps(display.bundle) + repr(model), "the card")
    for model in models_with_keys("http://127.0.0.1:9/v1").values():
        assert_no_key(json.dumps(check(model).bundle) + repr(model), "the card")


def test_a25_secrets_words_that_only_look_like_keys_stay_in_an_error():
    said = "no field key_points in sk-learn-like reply; bearer of bad news"
    pipeline = Source.list([{"text": "1"}, {"text": "2"}]) >> ask(
        "ask", FakeModel([LLMError(said, kind="bad_request"), "fine"])
    )
    result = pipeline.run(max_concurrent=1)
    assert [error.error for error in result.errors] == [said]
    assert said in check(result.errors).page.text
