"""What is displayed: the data and nothing else, escaped, bounded, the same each time, for nothing."""

from __future__ import annotations

import json
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from IPython.core.interactiveshell import InteractiveShell

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
    Seed,
    Sink,
    Source,
    Step,
    options,
)
from datafast_nb.display import old_html as html
from datafast_nb.models.base import Request
from datafast_nb.steps.base import SourceStep

Bundle = dict[str, str]

# As written by an attacker or an accident → as it stands in a display.
PAYLOADS: dict[str, str] = {
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>": "<svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)>": "<iframe src=javascript:alert(1)>",
    "<style>*{display:none}</style>": "<style>*{display:none}</style>",
    "<b id=x class=y>bold</b>": "<b id=x class=y>bold</b>",
    "<a href=http://127.0.0.1:9/x>link": "<a href=http://127.0.0.1:9/x>link",
    "[link](javascript:alert(1))": "[link](javascript:alert(1))",
    "</td></tr></table><h1>out</h1>": "</td></tr></table><h1>out</h1>",
    "</summary></details><form>": "</summary></details><form>",
    "</div></div></div></div><input>": "</div></div></div></div><input>",
    "--><textarea>": "--><textarea>",
    "]]></title></textarea></xmp>": "]]></title></textarea></xmp>",
    "\"><img src=x onload='alert(1)'>": "\"><img src=x onload='alert(1)'>",
    "' onmouseover='alert(1)": "' onmouseover='alert(1)",
    '" style="position:fixed;inset:0': '" style="position:fixed;inset:0',
    "&lt;i&gt; &amp; &#60;u&#62;": "&lt;i&gt; &amp; &#60;u&#62;",
    "&notit; &#x202e;": "&notit; &#x202e;",
    "$1 and $2": "$1 and $2",
    "$$x^2$$ \\(y\\) \\[z\\]": "$$x^2$$ \\(y\\) \\[z\\]",
    "`code` **bold** <!-- x": "`code` **bold** <!-- x",
    "{{ 7*7 }} {% raw %} {0} %s": "{{ 7*7 }} {% raw %} {0} %s",
    "red\x1b[31m text\x1b[0m": "red\\x1b[31m text\\x1b[0m",
    "\x1b]8;;http://127.0.0.1:9\x07click\x1b]8;;\x07": (
        "\\x1b]8;;http://127.0.0.1:9\\x07click\\x1b]8;;\\x07"
    ),
    "\x1b[2J\x1b[Hcleared": "\\x1b[2J\\x1b[Hcleared",
    "c1 \x9b31m csi": "c1 \\u009b31m csi",
    "bell\x07back\x08del\x7f": "bell\\x07back\\x08del\\u007f",
    "user\u202etxt.exe\u202c": "user\\u202etxt.exe\\u202c",
    "iso\u2066late\u2069 lrm\u200e rlm\u200f": "iso\\u2066late\\u2069 lrm\\u200e rlm\\u200f",
    "nul\x00byte": "nul\\x00byte",
    "lone\ud800surrogate": "lone\\ud800surrogate",
    "日本語 のテキスト": "日本語 のテキスト",
    "naïve e\u0301 ελληνικά": "naïve e\u0301 ελληνικά",
}
# A lone surrogate cannot be sent to a model or looked up in a memo: it is refused before it is shown.
SENDABLE = [p for p in PAYLOADS if p.isprintable() or "\ud800" not in p]
TAGS = {"div", "span", "br", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
ATTRIBUTES = {"style", "class"}
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
MAX_BYTES = 200_000


class Parsed(HTMLParser):
    """Elements and text of an HTML fragment, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.other: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # A column is set for short or for long cells: which of the two fixed styles is no matter.
        same = [(k, v.replace(html._SHORT, html._WORDS) if v else v) for k, v in attrs]
        self.elements.append((tag, tuple(same)))
        if tag == "br":
            self.text += "\n"
            return
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data

    def handle_comment(self, data: str) -> None:
        self.other.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment

    @property
    def skeleton(self) -> list[tuple[str, tuple[tuple[str, str | None], ...]]]:
        """Elements without those that stand for a character of the text."""
        return [e for e in self.elements if e not in (("span", ()), ("br", ()))]


def shown(obj: Any) -> Bundle:
    """What a notebook gets of an object that a cell ends in."""
    data, _ = DisplayFormatter().format(obj)
    bundle: Bundle = {k: v for k, v in data.items() if k in ("text/plain", "text/html")}
    return bundle


def is_obeyed(char: str) -> bool:
    """Whether a terminal or a browser would do something on this character."""
    kind = unicodedata.category(char)
    return (kind in ("Cc", "Cs", "Zl", "Zp") and char != "\n") or char in BIDI


def check_html(source: str) -> Parsed:
    """An HTML fragment is made of our own elements alone and loads nothing."""
    parsed = Parsed(source)
    assert not parsed.unbalanced and not parsed.open and not parsed.other
    for tag, attributes in parsed.elements:
        assert tag in TAGS
        assert {name for name, _ in attributes} <= ATTRIBUTES
        assert "url(" not in str(attributes)
    assert not [c for c in source if is_obeyed(c) and c != "\t"]
    return parsed


def check(obj: Any) -> Bundle:
    """What every display owes: both forms, safe, bounded, the same twice, no address."""
    bundle = shown(obj)
    assert set(bundle) == {"text/plain", "text/html"}
    plain, source = bundle["text/plain"], bundle["text/html"]
    assert plain.strip()
    assert not [c for c in plain if is_obeyed(c)]
    assert len(plain) < MAX_BYTES and len(source) < MAX_BYTES
    check_html(source)
    assert not re.search(r"\b0x[0-9a-f]{6,}\b", plain + source)
    assert shown(obj) == bundle
    return bundle


def ask(word: str, model: Any, **more: Any) -> LLMStep:
    given = {"prompt": "Say {text}", "output_columns": ["answer"], "model": model} | more
    return LLMStep(**given, retry_delay=0).as_step(word)


def failing(word: str) -> FakeModel:
    """Answers, but fails with the word where the prompt has the number 1."""

    def answer(request: Request) -> Any:
        if request.messages[-1]["content"].endswith("1"):
            return LLMError(word, kind="bad_request")
        return word

    return FakeModel(answer, name=word)


def keep(record: dict[str, Any]) -> dict[str, Any]:
    return record


def refuse(record: dict[str, Any]) -> bool:
    return False


def records(word: str) -> list[dict[str, Any]]:
    return [{"text": f"{word} {i}", word: [word, {word: word}], "n": i} for i in range(3)]


def results(word: str) -> dict[str, Any]:
    """Objects that stand on a run in which one of three calls fails, every text of them the word."""
    model = failing(word)
    pipeline = Source.list(records(word)).as_step(f"{word} source") >> ask(word, model)
    result = pipeline.run()
    return {
        "answered pipeline": pipeline,
        "answered preview": pipeline.preview(),
        "answered estimate": pipeline.estimate(),
        "result": result,
        "slice": result[:1],
        "errors": result.errors,
        "funnel": result.funnel,
        "ledger": result.ledger,
        "finished trace": pipeline.run_one(0),
        "failed trace": pipeline.run_one(1),
        "trace of an output": result.trace(0),
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
        "model": model,
        "compatible model": OpenAICompatibleModel(word, "http://127.0.0.1:9/v1"),
        "source": source.as_step(word),
        "seed": Seed.product(Seed.values(word, [word, "b"])),
        "result without run": Result(records(word)),
    }


def with_own_memo(make: Callable[[str], dict[str, Any]], word: str, home: Path) -> dict[str, Any]:
    options.home = home
    return make(word)


# Untrusted text.


@pytest.mark.parametrize("payload", list(PAYLOADS), ids=ascii)
def test_text_of_descriptions_is_shown_and_never_obeyed(payload, tmp_path):
    plain = descriptions("plain")
    hostile = descriptions(payload)
    for name, obj in hostile.items():
        source = check(obj)["text/html"]
        parsed = Parsed(source)
        assert PAYLOADS[payload] in parsed.text, name
        assert parsed.skeleton == Parsed(shown(plain[name])["text/html"]).skeleton, name


@pytest.mark.parametrize("payload", SENDABLE, ids=ascii)
def test_text_of_results_is_shown_and_never_obeyed(payload, tmp_path):
    plain = with_own_memo(results, "plain", tmp_path / "plain")
    bundles = {name: shown(obj) for name, obj in plain.items()}
    hostile = with_own_memo(results, payload, tmp_path / "hostile")
    for name, obj in hostile.items():
        parsed = Parsed(check(obj)["text/html"])
        assert PAYLOADS[payload] in parsed.text, name
        assert parsed.skeleton == Parsed(bundles[name]["text/html"]).skeleton, name


@pytest.mark.parametrize("payload", list(PAYLOADS), ids=ascii)
def test_reprs_and_graphs_of_steps_obey_no_control_character(payload):
    source = Source.list([{payload: payload}]).as_step(payload)
    step = Map(keep).as_step(payload)
    model = FakeModel(payload, name=payload)
    llm = LLMStep(prompt="hello", output_columns=[payload], model=model)
    for text in (
        repr(source),
        repr(step),
        repr(llm),
        repr(model),
        repr(source >> step),
        (source >> step >> llm).visualize(),
        repr(Sink.jsonl(payload.replace("\x00", ""))),
    ):
        assert text
        assert not [c for c in text if is_obeyed(c)], ascii(text)
        text.encode("utf-8")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40), st.text(min_size=1, max_size=12))
def test_any_text_in_values_and_columns_stays_text(value, column):
    result = Result([{f"c{column}": value, "other": [value, {column: value}]}])
    plain = shown(Result([{"c": "v", "other": "w"}]))
    bundle = check(result)
    assert check_html(bundle["text/html"]).skeleton == Parsed(plain["text/html"]).skeleton
    assert len(bundle["text/plain"].split("\n")) == len(plain["text/plain"].split("\n"))


def test_no_dollar_sign_stands_where_a_notebook_would_look_for_a_formula():
    for obj in (Result([{"$a$": "$1 and $2"}]), Source.list([{"$a$": "$1 and $2"}])):
        source = shown(obj)["text/html"]
        assert re.fullmatch(r'<div class="[^"]*\btex2jax_ignore\b[^"]*".*</div>', source, re.S)
        assert "mathjax_ignore" in source
        assert source.count("$") == source.count("<span>$</span>") >= 3


# What is shown is the data.


def test_a_result_shows_its_values_in_order_and_its_figures():
    pipeline = Source.list([{"id": i, "text": f"t{i}"} for i in range(3)]) >> ask(
        "ask", FakeModel(lambda r: r.messages[-1]["content"].upper())
    )
    result = pipeline.run()
    bundle = check(result)
    parsed = Parsed(bundle["text/html"])
    expected = ["id", "text", "answer"]
    for i in range(3):
        expected += [str(i), f"t{i}", f"SAY T{i}"]
    assert parsed.cells[: len(expected)] == expected
    assert "3 records, complete" in parsed.text
    assert "3 calls new · 0 answered from the memo · paid $0" in parsed.text
    lines = bundle["text/plain"].splitlines()
    assert lines[0] == "Result: 3 records, complete"
    at = lines.index("id  text  answer")
    assert lines[at + 2] == " 0  t0    SAY T0"
    assert not [c for c in expected if c.startswith("_")]


def test_a_slice_shows_its_own_records_and_keeps_the_run():
    result = Pipeline([Source.list([{"n": i} for i in range(30)])]).run()
    assert "30 records" in shown(result)["text/plain"]
    part = result[25:]
    parsed = Parsed(check(part)["text/html"])
    assert "5 records, complete" in parsed.text
    assert parsed.cells[:6] == ["n", "25", "26", "27", "28", "29"]
    assert "20 more" in shown(result)["text/plain"] and "more: .df" not in shown(part)["text/plain"]


def test_empty_results_say_so():
    result = (Source.list([{"a": 1}]) >> Filter(fn=refuse)).run()
    bundle = check(result)
    assert bundle["text/plain"].startswith("Result: 0 records, complete")
    assert "0 records, complete" in Parsed(bundle["text/html"]).text
    assert "no failed calls" in check(result.errors)["text/plain"]
    check(result.funnel)
    check(result.ledger)
    check(Result())


def test_singular_and_plural():
    one = Pipeline([Source.list([{"a": 1}])]).run()
    assert shown(one)["text/plain"].startswith("Result: 1 record, complete")
    assert "1 record, complete" in Parsed(shown(one)["text/html"]).text
    assert "Pipeline: 1 step" in shown(Source.list([{"a": 1}]))["text/plain"].splitlines()


def test_errors_are_grouped_with_a_count_and_an_example():
    def answer(request: Request) -> Any:
        n = int(request.messages[-1]["content"].split()[-1])
        return "fine" if n == 4 else LLMError(f"call {n} broke", kind="bad_request")

    result = (
        Source.list([{"text": str(i)} for i in range(5)]) >> ask("ask", FakeModel(answer))
    ).run()
    assert len(result) == 1
    parsed = Parsed(check(result.errors)["text/html"])
    assert parsed.cells[:4] == ["step", "kind", "count", "first example"]
    assert parsed.cells[4:7] == ["ask", "bad_request", "4"] and "call 0 broke" in parsed.cells[7]
    assert "4 failed calls" in parsed.text
    assert "4 failed" in shown(result)["text/plain"]


def test_the_funnel_shows_every_fate_and_the_fates_add_up():
    def answer(request: Request) -> Any:
        broken = request.messages[-1]["content"].endswith("9")
        return LLMError("no", kind="bad_request") if broken else "yes"

    pipeline = (
        Source.list([{"text": str(i), "n": i} for i in range(12)])
        >> Filter(fn=lambda r: r["n"] >= 4).as_step("late")
        >> ask("ask", FakeModel(answer), skip_if=lambda r: r["n"] == 5)
    )
    result = pipeline.run(limit=7)
    parsed = Parsed(check(result.funnel)["text/html"])
    header, cells = parsed.cells[:8], parsed.cells[8:]
    assert header[:3] == ["step", "in", "out"]
    rows = [dict(zip(header, cells[i : i + 8], strict=True)) for i in range(0, len(cells), 8)]
    assert rows[1]["in"] == "12" and rows[1]["out"] == "8" and rows[1]["filtered"] == "4"
    # 4 to 10 enter; 5 is skipped, 9 fails; 11 is beyond the limit.
    last = rows[2]
    assert (last["in"], last["out"], last["failed"], last["skipped"], last["beyond limit"]) == (
        "8",
        "6",
        "1",
        "1",
        "1",
    )


def test_traces_show_the_prompt_as_sent_and_the_reply():
    model = FakeModel("the reply")
    pipeline = Source.list([{"text": "bees"}]) >> ask("ask", model, system_prompt="Be brief.")
    trace = pipeline.run_one(0)
    for text in (shown(trace)["text/plain"], Parsed(check(trace)["text/html"]).text):
        assert "Say bees" in text and "Be brief." in text and "the reply" in text
    dropped = (Source.list([{"text": "x"}]) >> Filter(fn=refuse).as_step("none")).run_one(0)
    assert "filtered at step 'none'" in check(dropped)["text/plain"]
    failed = (
        Source.list([{"text": "x"}])
        >> ask("ask", FakeModel([LLMError("over capacity", kind="bad_request")]))
    ).run_one(0)
    assert "failed" in shown(failed)["text/plain"] and "over capacity" in check(failed)["text/html"]


@pytest.mark.parametrize("with_model", [False, True])
def test_a_trace_of_a_filtered_record_shows_that_record_alone_and_where_it_went(with_model):
    rows = [{"n": i, "text": f"row {i}"} for i in range(4)]
    pipeline = Source.list(rows) >> Filter(fn=lambda r: r["n"] != 1).as_step("not one")
    if with_model:
        pipeline = pipeline >> ask("ask", FakeModel())
    trace = pipeline.run_one(where={"n": 1})
    assert not trace.outputs and "filtered at step 'not one'" in trace.why_dropped
    for text in (check(trace)["text/plain"], Parsed(shown(trace)["text/html"]).text):
        assert "row 1" in text and "row 0" not in text and "row 3" not in text


def test_compiled_pipelines_show_the_columns_after_each_step():
    compiled = (Source.list([{"text": "x"}]) >> ask("ask", FakeModel())).compile()
    for text in (check(compiled)["text/plain"], Parsed(shown(compiled)["text/html"]).text):
        assert compiled.fingerprint in text
        assert re.search(r"ask\s*text, answer", text)


def test_model_cards_name_price_endpoint_and_whether_a_key_is_there(monkeypatch):
    card = check(OpenAIModel("gpt-4o-mini"))["text/plain"]
    assert "$0.15 in, $0.60 out per million tokens" in card and "OPENAI_API_KEY is missing" in card
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-mine")
    for model in (
        OpenAIModel("gpt-4o-mini"),
        OpenAIModel("gpt-4o-mini", api_key="sk-secret-of-mine"),
    ):
        bundle = check(model)
        assert "missing" not in bundle["text/plain"]
        assert "secret" not in json.dumps(bundle) + repr(model)
    unknown = check(OpenAICompatibleModel("m", "http://127.0.0.1:9/v1"))["text/plain"]
    assert "unknown" in unknown and "http://127.0.0.1:9/v1" in unknown and "$0" not in unknown
    assert "free" in check(FakeModel())["text/plain"]
    assert "free" in check(LocalModel())["text/plain"]


def test_a_background_run_shows_its_state():
    release = threading.Event()

    def wait(record: dict[str, Any]) -> dict[str, Any]:
        assert release.wait(20)
        return record

    run = (Source.list([{"text": "x"}]) >> Map(wait) >> ask("ask", FakeModel())).start()
    try:
        assert "Run: running" in check(run)["text/plain"]
    finally:
        release.set()
    run.result(20)
    bundle = check(run)
    assert "Run: complete" in bundle["text/plain"]
    assert "1 of 1: 0 answered, 1 new, 0 failed" in Parsed(bundle["text/html"]).text


def test_memo_info_shows_what_it_holds():
    (Source.list([{"text": "x"}, {"text": "y"}]) >> ask("ask", FakeModel(name="m1"))).run()
    info = dfn.memo.info()
    text = check(info)["text/plain"]
    assert "2 draws, 2 replies" in text and "fake/m1" in text


def test_seeds_and_files_show_their_first_records(tmp_path):
    seed = Seed.product(Seed.values("topic", ["bees", "moon"]), Seed.values("tone", ["dry"]))
    parsed = Parsed(check(seed)["text/html"])
    assert parsed.cells[-6:] == ["topic", "tone", "bees", "dry", "moon", "dry"]
    path = tmp_path / "some.csv"
    path.write_text("a,b\n1,x\n", "utf-8")
    assert "some.csv" in check(Source.file(str(path)))["text/plain"]


@pytest.mark.parametrize(
    "step",
    [Map(keep), FlatMap(lambda r: [r]), Filter(fn=refuse), Sink.list(), ask("a", FakeModel())],
)
def test_steps_that_end_a_cell_show_both_forms(step):
    check(step)


# The interrupt.


def test_an_interrupt_shows_one_line_and_stops_the_cells_behind_it(capsys):
    shell = InteractiveShell()

    def interrupt(record: dict[str, Any]) -> dict[str, Any]:
        if record["n"] == 2:
            raise KeyboardInterrupt
        return record

    shell.user_ns["pipeline"] = Source.list([{"n": i} for i in range(4)]) >> Map(interrupt)
    done = shell.run_cell("pipeline.run()")
    out, err = capsys.readouterr()
    assert not done.success
    shown_lines = [line for line in (out + err).splitlines() if line.strip()]
    assert len(shown_lines) == 1 and shown_lines[0].startswith("Interrupted: ")
    assert dfn.last is not None and dfn.last.status == "interrupted"
    check(dfn.last)


# Nothing is asked, nothing raised.


class Untouchable(FakeModel):
    """Fails the test that asks it."""

    async def complete(self, request: Request) -> Any:
        raise AssertionError("a display asked the model")


def test_displays_ask_no_model():
    model = Untouchable(name="gpt-4o-mini", provider="openai")
    pipeline = (
        Source.list(records("w"))
        >> ask("ask", model)
        >> ask("again", model, prompt="{answer}", output_columns=["b"])
    )
    for obj in (pipeline, pipeline.preview(), pipeline.estimate(), pipeline.compile(), model):
        check(obj)
    repr(pipeline)
    pipeline.visualize()
    assert model.calls == 0


def test_reprs_run_nothing():
    ran: list[int] = []

    def note(record: dict[str, Any]) -> dict[str, Any]:
        ran.append(1)
        return record

    pipeline = Source.list([{"text": "x"}]) >> Map(note) >> ask("ask", FakeModel())
    for obj in (pipeline, *pipeline.steps, pipeline.compile()):
        repr(obj)
    pipeline.visualize()
    assert ran == []
    check(pipeline)
    assert ran


class Surprise(Exception):
    """An exception that is hard to show."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")


def raising(error: Callable[[], BaseException]) -> Map:
    def fail(record: dict[str, Any]) -> dict[str, Any]:
        raise error()

    return Map(fail).as_step("breaks")


def test_a_function_that_raises_is_shown_in_place():
    pipeline = Source.list([{"a": 1}]) >> raising(lambda: ZeroDivisionError("by naught"))
    bundle = check(pipeline)
    for text in (bundle["text/plain"], Parsed(bundle["text/html"]).text):
        assert "ZeroDivisionError: by naught" in text and "step 'breaks'" in text
        assert "Pipeline: 2 steps" in text


@pytest.mark.parametrize(
    "error",
    [Surprise, StopIteration, RecursionError, MemoryError, lambda: KeyError(b"\xff")],
    ids=["unprintable", "StopIteration", "RecursionError", "MemoryError", "bytes"],
)
def test_displays_survive_exceptions_of_every_kind(error):
    assert "breaks" in check(Source.list([{"a": 1}]) >> raising(error))["text/plain"]


def test_displays_survive_a_source_that_is_gone(tmp_path):
    path = tmp_path / "here.jsonl"
    path.write_text('{"text": "x"}\n', "utf-8")
    pipeline = Source.file(str(path)) >> ask("ask", FakeModel())
    assert "preview: 1 record" in check(pipeline)["text/plain"]
    compiled, estimate, result = pipeline.compile(), pipeline.estimate(), pipeline.run()
    path.unlink()
    assert "here.jsonl" in check(pipeline)["text/plain"]
    for obj in (compiled, estimate, result, result.funnel, result.trace(0), repr(pipeline)):
        shown(obj)


@pytest.mark.parametrize(
    "payload", [p for p in SENDABLE if "/" not in p and "\x00" not in p], ids=ascii
)
def test_displays_survive_a_file_that_never_was_whatever_its_name(payload):
    bundle = check(Source.file(f"{payload}.csv"))
    assert "there is no file" in bundle["text/plain"]
    assert f"{PAYLOADS[payload]}.csv" in Parsed(bundle["text/html"]).text


class BrokenSource(SourceStep):
    """A source of a user, wrong in every way."""

    def __init__(self, where: str) -> None:
        self.where = where

    def _fail(self, where: str) -> None:
        if self.where == where:
            raise OSError(f"broken {where}")

    def read(self, chunk: int) -> Iterator[list[Any]]:
        self._fail("read")
        yield [{"a": 1}]

    def count(self) -> int:
        self._fail("count")
        return 1

    def columns(self) -> list[str] | None:
        self._fail("columns")
        return ["a"]

    def version(self) -> str:
        self._fail("version")
        return ""

    def describe(self) -> str:
        self._fail("describe")
        return "broken"


@pytest.mark.parametrize("where", ["read", "count", "columns", "version", "describe"])
def test_displays_survive_a_source_whose_methods_raise(where):
    pipeline = BrokenSource(where) >> dfn.Sample(n=1) >> ask("ask", FakeModel(), prompt="{a}")
    text = check(pipeline)["text/plain"]
    if where not in ("count", "version"):  # neither is needed to show it
        assert f"broken {where}" in text


class Endless(Step):
    def process(self, records: Any) -> Any:
        raise ValueError("own step broke")


def test_displays_survive_broken_pipelines():
    source = Source.list([{"text": "x"}])
    own = check(source >> Endless().as_step("own"))["text/plain"]
    assert "own step broke" in own
    for pipeline in (
        Pipeline([Map(keep)]),
        source >> LLMStep(prompt="{txt}", output_columns=["a"], model=FakeModel()),
        source >> LLMStep(prompt="{text}", output_columns=["text"], model=FakeModel()),
        source >> LLMStep(prompt="{text}", output_columns=["a"]),
    ):
        text = check(pipeline)["text/plain"]
        assert "1 problem" in text and "problem: step " in text
    missing = check(source >> LLMStep(prompt="{txt}", output_columns=["a"], model=FakeModel()))
    assert "Did you mean 'text'?" in missing["text/plain"]


def test_displays_survive_a_memo_that_cannot_be_opened(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", "utf-8")
    options.home = blocked / "memo"
    text = check(Source.list([{"text": "x"}]) >> ask("ask", FakeModel()))["text/plain"]
    assert "no preview" in text and "ask" in text


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        b"\x00\xff<b>",
        [[[[[[[[[["deep"]]]]]]]]]],
        {"k": {"k": {"k": None}}},
        True,
        "",
        "   ",
        "\n\n",
        2**80,
        1e308,
    ],
    ids=lambda v: f"{type(v).__name__} {str(v)[:20]!a}" if not isinstance(v, int) else "int",
)
def test_displays_survive_odd_values(value):
    pipeline = Source.list([{"v": value, "text": "x"}]) >> ask("ask", FakeModel())
    result = pipeline.run()
    for obj in (pipeline, result, pipeline.run_one(0), pipeline.preview(), Result([{"v": value}])):
        check(obj)


@pytest.mark.parametrize("value", [10**5000, [-(10**5000)]], ids=["number", "in a list"])
def test_displays_survive_numbers_too_long_for_python_to_write(value):
    check(Result([{"v": value}]))
    check(Source.list([{"v": value}]) >> Map(keep))


def test_records_of_different_shapes_share_a_table():
    result = Pipeline([Source.list([{"a": 1}, {"b": None}, {}, {"a": "x", "c": 2.5}])]).run()
    parsed = Parsed(check(result)["text/html"])
    assert parsed.cells[:15] == [
        *("a", "b", "c"),
        *("1", "", ""),
        *("", "None", ""),
        *("", "", ""),
        *("x", "", "2.5"),
    ]


# Size.


@pytest.mark.parametrize("place", ["value", "nested", "column", "answer", "prompt"])
def test_ten_megabytes_of_text_are_cut_with_a_count(place):
    huge = "word " * 2_000_000
    record: dict[str, Any] = {"text": "x"}
    if place == "value":
        record["big"] = huge
    elif place == "nested":
        record["big"] = {"list": [huge, huge]}
    elif place == "column":
        record[huge] = 1
    elif place == "prompt":
        record["text"] = huge
    pipeline = Source.list([record]) >> ask(
        "ask", FakeModel(huge if place == "answer" else "short")
    )
    options.preview_seconds = 60
    result = pipeline.run()
    started = time.perf_counter()
    for obj in (pipeline, result, pipeline.run_one(0), pipeline.preview(), result.errors):
        bundle = check(obj)
        if obj is result and place in ("value", "answer"):
            assert re.search(r"… \+9,?999,?\d\d\d", Parsed(bundle["text/html"]).text)
    assert time.perf_counter() - started < 30


def test_a_huge_error_text_is_cut():
    model = FakeModel([LLMError("boom " * 1_000_000, kind="bad_request"), "fine"])
    result = (Source.list([{"text": "x"}, {"text": "y"}]) >> ask("ask", model)).run(
        max_concurrent=1
    )
    check(result)
    check(result.errors)

    def fail(record: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("boom " * 1_000_000)

    check(Source.list([{"a": 1}]) >> Map(fail))


def test_a_thousand_columns_are_cut_with_a_count():
    wide = [{f"column_{i}": i for i in range(1_000)} for _ in range(3)]
    pipeline = Source.list(wide) >> ask("ask", FakeModel(), prompt="{column_7}")
    result = pipeline.run()
    for obj in (pipeline, result, pipeline.run_one(0), pipeline.compile(), pipeline.preview()):
        check(obj)
    text = shown(result)["text/plain"]
    assert re.search(r"\b989 more columns", text)
    assert max(map(len, text.splitlines())) <= 300


def test_a_hundred_thousand_records_are_counted_and_ten_shown():
    pipeline = Source.list([{"n": i, "text": "t"} for i in range(100_000)]) >> Filter(
        fn=lambda r: r["n"] % 2 == 0
    )
    result = pipeline.run()
    started = time.perf_counter()
    bundle = check(result)
    check(pipeline)
    assert time.perf_counter() - started < 3
    assert "50,000 records" in bundle["text/plain"] and "49,990 more" in bundle["text/plain"]
    assert len(bundle["text/html"]) < 60_000


def test_a_step_with_many_failures_shows_one_line_for_them():
    def answer(request: Request) -> Any:
        n = int(request.messages[-1]["content"].split()[-1])
        return "fine" if n == 0 else LLMError(f"call {n} broke", kind="bad_request")

    result = (
        Source.list([{"text": str(i)} for i in range(500)]) >> ask("ask", FakeModel(answer))
    ).run()
    assert len(result.errors) == 499
    assert len(shown(result)["text/plain"].splitlines()) < 40


# Terminals.


def column_width(line: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1
        for c in line
    )


def wide_objects() -> dict[str, Any]:
    rows = [
        {"id": i, "title": f"日本語の見出し {i} " * 4, "text": "a long English text " * 20}
        for i in range(4)
    ]
    pipeline = Source.list(rows) >> ask("questions", FakeModel("答え " * 30))
    result = pipeline.run()
    return {
        "result": result,
        "preview": pipeline.preview(),
        "estimate": pipeline.estimate(),
        "funnel": result.funnel,
        "ledger": result.ledger,
        "trace": pipeline.run_one(0),
        "pipeline": pipeline,
    }


@pytest.mark.parametrize("columns", [40, 60, 200])
@pytest.mark.parametrize(
    "name", ["result", "preview", "estimate", "funnel", "ledger", "trace", "pipeline"]
)
def test_text_fits_the_terminal(columns, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = check(wide_objects()[name])["text/plain"]
    # Sentences may wrap; tables and cut values have to fit, or nothing stands under its heading.
    sentence = re.compile(r"Result:|Estimate:|memo:|next:|.* calls new · ")
    lines = [line for line in text.splitlines() if not sentence.match(line)]
    assert not [line for line in lines if column_width(line) > columns]


def test_wide_characters_keep_columns_aligned(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = Pipeline(
        [
            Source.list(
                [{"a": "日本", "b": "x"}, {"a": "abcd", "b": "y"}, {"a": "e\u0301", "b": "z"}]
            )
        ]
    ).run()
    lines = shown(result)["text/plain"].splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("a"))
    starts = {
        column_width(line[: line.rindex(last)])
        for line, last in zip(lines[at + 2 : at + 5], "xyz", strict=True)
    }
    assert starts == {6}


def test_the_terminal_changes_nothing_in_html(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    first = {n: shown(o)["text/html"] for n, o in wide_objects().items() if n != "ledger"}
    monkeypatch.setenv("COLUMNS", "200")
    again = {n: shown(o)["text/html"] for n, o in wide_objects().items() if n != "ledger"}
    assert {n for n in first if first[n] == again[n]} >= {"estimate", "trace"}


@pytest.mark.parametrize("value", ["👩‍💻 works", "نمی‌خواهم", "prix : 10 €", "全角　空白"])
def test_joiners_and_spaces_of_ordinary_text_are_not_shown_as_codes(value):
    model = FakeModel(value)
    pipeline = Source.list([{"text": value}]) >> ask("ask", model)
    for obj in (pipeline, pipeline.run(), pipeline.run_one(0)):
        bundle = shown(obj)
        assert "\\u" not in bundle["text/plain"] + bundle["text/html"]


# The same each time.


def test_two_runs_of_the_same_pipeline_in_equal_memos_show_the_same(tmp_path):
    seen = []
    for name in ("one", "two"):
        options.home = tmp_path / name
        objects = {k: v for k, v in results("word").items() if k != "memo"}
        seen.append({k: shown(v) for k, v in objects.items()})
    for name in seen[0]:
        first, again = (json.dumps(s[name]).replace("/two/", "/one/") for s in seen)
        assert first == again, name


def test_displays_hold_no_clock_and_no_path_of_this_machine(tmp_path):
    objects = {k: v for k, v in {**results("w"), **descriptions("w")}.items() if k != "memo"}
    for name, obj in objects.items():
        text = json.dumps(shown(obj))
        assert not re.search(r"\d\d:\d\d:\d\d|20\d\d-\d\d-\d\d", text), name
        if name not in ("estimate", "answered estimate"):
            assert str(tmp_path) not in text, name
        assert str(Path(dfn.__file__).parent) not in text, name


def test_functions_and_objects_show_no_address():
    class Doubler:
        def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
            return {**record, "n": record["n"] * 2}

    for fn in (Doubler(), lambda r: r, keep):
        pipeline = Source.list([{"n": 1}]) >> Map(fn)
        check(pipeline)
        assert "0x" not in repr(pipeline.steps[1]) + pipeline.visualize()
