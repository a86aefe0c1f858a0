"""Cards: what a cell shows of models, steps, seeds, samples, sources, sinks, the memo, a run."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import datafast_nb as dfn
from datafast_nb import (
    FakeModel,
    Filter,
    FlatMap,
    LLMStep,
    LocalModel,
    Map,
    OpenAICompatibleModel,
    OpenAIModel,
    Price,
    ReplayModel,
    Sample,
    Seed,
    Sink,
    Source,
)
from datafast_nb.display import formats
from datafast_nb.display.views import Document, Fact, Facts, Head, Legend, Table, plain
from datafast_nb.engine.events import (
    Noted,
    Progress,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
)
from datafast_nb.engine.handle import Run, Snapshot
from datafast_nb.engine.progress import NotebookLine
from datafast_nb.errors import BudgetExceededError, LLMError
from datafast_nb.models.base import Model, Request, Response, Usage
from datafast_nb.models.pricing import list_usd
from datafast_nb.models.tally import tally_of
from datafast_nb.results import Result
from datafast_nb.steps.base import SinkStep, SourceStep, Step
from datafast_nb.steps.sample_view import sample_card
from datafast_nb.store import database
from datafast_nb.store.memo import Memo, open_memo
from datafast_nb.store.memoinfo import N_LOOKED_AT
from datafast_nb.store.rows import Reply, dump, seal

KEY = "sk-planted-0123456789abcdefXYZ"


def shown(thing: Any) -> dict[str, str]:
    """All forms of a display."""
    return {**thing._repr_mimebundle_(), "repr": repr(thing)}


def words(thing: Any) -> str:
    return str(shown(thing)["text/plain"])


def blocks(thing: Any, kind: type) -> list[Any]:
    return [block for block in thing.view().blocks if isinstance(block, kind)]


def head(thing: Any) -> str:
    (found,) = blocks(thing, Head)
    return f"{found.title}  {plain(found.facts)}"


def facts(thing: Any) -> dict[str, str]:
    """Labels and what stands beside them, blocks written out."""
    out: dict[str, str] = {}
    for block in blocks(thing, Facts):
        for fact in block.facts:
            out[fact.label] = _body(fact)
    return out


def _body(fact: Fact) -> str:
    parts = []
    for part in fact.body:
        parts.append(plain(part.line) if hasattr(part, "line") else plain((part,)))
    return "\n".join(parts) if fact.body and hasattr(fact.body[0], "line") else "".join(parts)


def legend(thing: Any) -> str:
    (found,) = blocks(thing, Legend)
    return " | ".join(plain(item) for item in found.items)


def cells(table: Table) -> list[list[Any]]:
    return [[c.value if hasattr(c, "value") else plain(c.line) for c in r] for r in table.rows]


# Models.


def test_a_model_in_one_line_names_price_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "OpenAIModel('gpt-4o-mini', provider='openai', $0.15/$0.60 per 1M, key: "
    assert repr(OpenAIModel("gpt-4o-mini")) == f"{line}missing: OPENAI_API_KEY)"
    assert repr(OpenAIModel("gpt-4o-mini", api_key=KEY)) == f"{line}set)"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert repr(OpenAIModel("gpt-4o-mini")) == f"{line}set)"
    assert repr(FakeModel()) == "FakeModel('fake', provider='fake', free)"
    unknown = OpenAICompatibleModel("m", "http://127.0.0.1:9/v1")
    assert repr(unknown) == "OpenAICompatibleModel('m', provider='openai', price unknown)"
    priced = FakeModel(name="x", price=(1.25, 10))
    assert repr(priced) == "FakeModel('x', provider='fake', $1.25/$10 per 1M)"


def test_a_model_card_names_price_with_its_table_key_endpoint_and_limits() -> None:
    model = OpenAIModel("gpt-4o-mini", max_in_flight=4, timeout_s=30)
    told = facts(model)
    assert re.fullmatch(
        r"\$0\.15 in, \$0\.075 cached, \$0\.60 out per 1M tokens · genai-prices [\d.]+",
        told["price"],
    )
    assert told["key"] == "missing: OPENAI_API_KEY"
    assert "4 calls at a time" in told["in flight"] and told["deadline"].startswith("30 s")
    assert head(model) == "gpt-4o-mini  openai · OpenAIModel"
    assert "OPENAI_API_KEY" in plain(model.view().blocks[-1].line)  # how to set it
    local = facts(LocalModel())
    assert local["price"].startswith("free") and "4,096" in local["context"]
    assert local["key"] == "not needed" and len(local["endpoint"]) < 40
    assert "unknown" in facts(OpenAICompatibleModel("m", "http://h/v1"))["price"]


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{KEY}@127.0.0.1:9/v1",
        f"http://{KEY}@127.0.0.1:9/v1",
        f"http://127.0.0.1:9/v1?api-key={KEY}",
        f"http://127.0.0.1:9/{KEY}/v1",
        f"http://127.0.0.1:9/v1#{KEY}",
    ],
)
def test_an_address_is_shown_without_what_may_be_a_key(address: str) -> None:
    model = OpenAICompatibleModel("m", address)
    assert facts(model)["endpoint"].startswith("http://127.0.0.1:9/")
    assert KEY not in json.dumps(shown(model))


def test_a_card_counts_the_calls_of_this_session_and_not_the_answers_of_the_memo() -> None:
    model = FakeModel("yes", name="tally-1", price=(1.0, 2.0))
    assert legend(model) == "no call in this session"
    pipeline = Source.list([{"a": "x"}, {"a": "y"}]) >> LLMStep(
        prompt="{a}", output_columns=["b"], model=model
    )
    run = pipeline.run()
    pipeline.run()
    assert tally_of(model).calls == model.calls == 2
    assert legend(model).startswith("○ 2 calls in this session | paid $0.0000")
    assert tally_of(model).usd == pytest.approx(run.ledger.paid_usd)
    # Another object of the same identity is the same model, another name is not.
    assert tally_of(FakeModel(name="tally-1")).calls == 2
    assert tally_of(FakeModel(name="tally-2")).calls == 0


def test_failed_calls_and_unknown_prices_are_counted_apart() -> None:
    gone = LLMError("gone", kind="bad_request")
    bad = FakeModel(["yes", gone], name="tally-3", parallel=1)
    rows = Source.list([{"a": "x"}, {"a": "y"}])
    (rows >> LLMStep(prompt="{a}", output_columns=["b"], model=bad)).run()
    assert legend(bad) == "○ 2 calls in this session | ✕ 1 without a reply"

    class Mine(Model):
        name = "tally-4"

        async def complete(self, request: Request) -> Response:
            return Response("ok", usage=Usage(3, 4))

    (rows >> LLMStep(prompt="{a}", output_columns=["b"], model=Mine())).run()
    assert legend(Mine()) == "○ 2 calls in this session | paid unknown"


def test_a_question_outside_pipelines_counts_too() -> None:
    model = FakeModel("yes", name="tally-5")
    assert model.generate("is it?") == "yes"
    assert tally_of(model).calls == 1


class Raising(Model):
    """Every attribute that a card looks at raises."""

    @property
    def name(self) -> str:  # type: ignore[override]
        raise RuntimeError("no name")

    provider = endpoint = parallel = price = name  # type: ignore[assignment]

    def missing_key(self) -> str | None:
        raise RuntimeError("no key")


def test_models_whose_properties_raise_are_shown_all_the_same() -> None:
    assert repr(Raising()).startswith("Raising('?'")
    assert head(Raising()).startswith("?")
    assert "unknown" in facts(Raising())["key"]


def test_a_recording_shows_what_it_answers_for(tmp_path: Path) -> None:
    rows = Source.list([{"a": "x"}])
    (rows >> LLMStep(prompt="{a}", output_columns=["b"], model=FakeModel(name="rec"))).run()
    dfn.memo.export(tmp_path / "calls.jsonl")
    model = ReplayModel(tmp_path / "calls.jsonl")
    assert "recorded: 1 answers in calls.jsonl" in repr(model)
    assert head(model) == "rec  fake · ReplayModel" and "free" in facts(model)["price"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.6, "$0.60"), (0.15, "$0.15"), (1.25, "$1.25"), (0.075, "$0.075"), (15, "$15"),
     (2.5, "$2.50"), (0.0375, "$0.0375"), (1200, "$1,200"), (0, "$0")],
)  # fmt: skip
def test_listed_prices_keep_every_digit(value: float, expected: str) -> None:
    assert list_usd(value) == expected


@given(st.floats(1e-6, 1e4).map(lambda x: round(x, 6)))
def test_a_listed_price_reads_back_as_itself(value: float) -> None:
    assert float(list_usd(value).replace("$", "").replace(",", "")) == pytest.approx(value)


def test_a_price_says_what_it_is() -> None:
    assert repr(Price(0.15, 0.6)) == "Price($0.15 in, $0.60 out per 1M tokens)"
    assert repr(Price(3, 15, 0.3, "list")) == (
        "Price($3 in, $0.30 cached, $15 out per 1M tokens, list)"
    )
    assert repr(Price(0, 0)) == "Price(free)"


# Steps.


def test_a_step_shows_its_function_as_it_was_written() -> None:
    step = Filter(lambda r: len(r["text"].split()) >= 40).as_step("long_enough")
    assert head(step) == 'long_enough  Filter · keep where len(r["text"].split()) >= 40'
    assert not facts(step)
    kinds = ("one", "two", "three")
    long = Filter(
        lambda r: (
            r["first"] in kinds or r["second"] in kinds or r["third_of_them"] in kinds or r["last"]
        )
    )
    assert facts(long)["fn"].startswith("lambda r:") and facts(long)["fn"].endswith("r['last']")

    def add_length(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "n": len(record["text"])}

    named = Map(add_length, outputs=["n"])
    assert repr(named) == "<Map: add_length>"
    told = facts(named)
    assert told["adds"] == "n" and 'len(record["text"])' in told["fn"]


def test_an_llm_step_shows_templates_models_calls_and_what_is_drawn() -> None:
    class Answer(BaseModel):
        question: str
        score: int

    step = LLMStep(
        prompt=["About {topic}: {text}", "In short: {text}"],
        system_prompt="Be kind to {reader}.",
        output_columns=Answer,
        model=[FakeModel(name="m1"), FakeModel(name="m2")],
        language=Sample(["en", "de", "fr"], n=2, seed=7),
        num_outputs=3,
        temperature=0.5,
        max_tokens=99,
        on_error="raise",
        skip_if=lambda r: not r["text"],
    ).as_step("ask")
    assert head(step) == (
        "ask  LLMStep · m1, m2 · temperature 0.5 · reads topic, text, reader · "
        "writes question, score"
    )
    told = facts(step)
    assert told["template 0"] == "About {topic}: {text}" and told["template 1"]
    assert told["system"] == "Be kind to {reader}."
    assert told["models"].splitlines() == [repr(m) for m in step.models]
    assert told["calls"] == ("24 a record: 2 prompts × 2 models × 2 languages of 3 × 3 outputs")
    assert told["language drawn"] == "per record: 2 of 3 items, uniform, seed 7"
    assert told["writes"].startswith("question: str, score: int")
    assert told["max_tokens"] == "99" and told["on error"] == "the run stops"
    assert told["skip_if"] == 'lambda r: not r["text"]'
    styles = [s.text for f in blocks(step, Facts)[0].facts if f.label == "template 0"
              for b in f.body for s in b.line if hasattr(s, "style")]  # fmt: skip
    assert styles == ["{topic}", "{text}"]


@given(
    n_prompts=st.integers(1, 3),
    n_models=st.integers(1, 3),
    n_temperatures=st.integers(1, 2),
    n_outputs=st.integers(1, 3),
    drawn=st.integers(1, 3),
)
def test_the_calls_that_a_card_names_are_those_that_are_made(
    n_prompts: int, n_models: int, n_temperatures: int, n_outputs: int, drawn: int
) -> None:
    step = LLMStep(
        prompt=Sample([f"{i} {{a}}" for i in range(n_prompts)], n=drawn),
        output_columns=["b"],
        model=[FakeModel(name=f"m{i}") for i in range(n_models)],
        temperature=[0.1 * i for i in range(n_temperatures)],
        num_outputs=n_outputs,
    )
    said = int(facts(step)["calls"].split()[0])
    assert said == len(step.plan({"a": "x"}, "t")) * n_outputs


def test_a_step_of_the_users_own_shows_its_settings_and_columns() -> None:
    class Shorten(Step):
        """Cut texts."""

        inputs = ("text",)
        outputs = ("short",)

        def __init__(self, n: int = 5, api_key: str = "", style: str = "plain") -> None:
            self.n = n
            self.api_key = api_key
            self.style = style
            self.output_mappings = {"short": "brief"}

    told = facts(Shorten(n=9, api_key=KEY))
    assert told["n"] == "9" and "style" not in told
    assert told["reads"] == "text" and told["adds"] == "short"
    assert told["renames out"] == "short → brief"
    assert told["api_key"] == "set, not shown" and KEY not in json.dumps(shown(Shorten(2, KEY)))


def test_a_step_whose_methods_raise_is_shown_all_the_same() -> None:
    class Broken(Step):
        def describe(self) -> str:
            raise RuntimeError("cannot")

        def config(self) -> dict[str, Any]:
            raise RuntimeError("cannot either")

    text = words(Broken())
    assert "Broken" in text and "cannot" in repr(Broken())


# Seeds and samples.


def test_a_product_says_what_it_multiplies_and_shows_five_rows() -> None:
    seed = Seed.product(
        Seed.values("topic", ["bees", "moon", "tea"]), Seed.values("level", ["1", "2", "3", "4"])
    )
    assert head(seed) == "12 rows  Seed.product · 3 topic × 4 level = 12 rows"
    (table,) = blocks(seed, Table)
    assert [c.name for c in table.columns] == ["", "topic", "level"]
    assert cells(table) == [[str(i), *row.values()] for i, row in enumerate(seed.first_rows(5))]
    assert [c.note or c.spark for c in table.columns[1:]] != [None, None]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_grid_has_as_many_rows_as_its_card_says(sizes: list[int]) -> None:
    parts = [Seed.values(f"c{i}", list(range(n))) for i, n in enumerate(sizes)]
    seed = Seed.product(*parts)
    n = math.prod(sizes)
    assert len(list(seed.rows())) == n
    assert head(seed).endswith(f"{n} row{'s' * (n != 1)}")
    assert all(f"{size} c{i}" in head(seed) for i, size in enumerate(sizes)) or len(sizes) == 1
    (table,) = blocks(seed, Table)
    assert len(table.rows) == min(5, n)


def test_the_columns_of_a_product_are_summed_up_without_making_its_rows() -> None:
    big = Seed.product(*(Seed.range(f"c{i}", 1, 1_000) for i in range(6)))
    started = time.monotonic()
    text = words(big)
    assert time.monotonic() - started < 2
    assert "1,000,000,000,000,000,000 rows" in text


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (Seed.values("a", ["x"]), "Seed.values · 1 value of a"),
        (Seed.range("a", 1, 9, 2), "Seed.range · 5 values of a, 1 to 9 by 2"),
        (Seed.expand("f", "t", {"x": [1, 2], "y": [3]}), "2 f with 3 t in all = 3 rows"),
        (Seed.zip(Seed.values("a", [1, 2]), Seed.values("b", [3, 4])), "2 a with 2 b = 2 rows"),
    ],
)
def test_seeds_say_how_their_rows_come_about(seed: Step, expected: str) -> None:
    assert expected in head(seed)


def test_an_empty_seed_says_so() -> None:
    assert head(Seed.values("a", [])).startswith("0 rows")


def test_a_sample_shows_strategy_seed_and_its_first_items() -> None:
    step = Sample(n=100, seed=3)
    assert head(step) == "Sample  records: 100, uniform, seed 3"
    assert facts(step)["seed"] == "3"
    items = Sample(list("abcdefg"), n=2, strategy="weighted", by=[1, 1, 2, 0, 0, 0, 0], seed=None)
    assert "drawn per record" in head(items) and "fresh" in facts(items)["seed"]
    (table,) = blocks(items, Table)
    assert cells(table)[:3] == [
        ["0", "a", "1", "25%"],
        ["1", "b", "1", "25%"],
        ["2", "c", "2", "50%"],
    ]
    assert "2 more items" in words(items)


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=60),
    st.integers(1, 60),
    st.integers(0, 3),
)
def test_what_a_sample_did_adds_up(kinds: list[str], n: int, seed: int) -> None:
    before = [{"kind": kind} for kind in kinds]
    step = Sample(n=n, seed=seed)
    after = [before[i] for i in step.choose(before, [str(i) for i in range(len(before))])]
    first, *rest = sample_card(step, before, after, by="kind")
    assert f"{len(after)} of {len(before)} record" in plain(first.line)
    (table,) = rest
    if len(set(kinds)) * 2 <= len(kinds):
        counts = [[int(cell.line[0]) for cell in row[1:]] for row in table.rows]
        assert [sum(side) for side in zip(*counts, strict=True)] == [len(before), len(after)]


def test_a_sample_of_numbers_shows_their_range_and_one_without_columns_the_counts() -> None:
    before = [{"n": float(i)} for i in range(100)]
    _, table = sample_card(Sample(n=50), before, before[:50])
    assert cells(table) == [["least", 0.0, 0.0], ["median", 49.0, 24.0], ["most", 99.0, 49.0]]
    assert table.columns[1].spark is not None and table.columns[2].spark is not None
    assert len(sample_card(Sample(n=5), [{}] * 9, [{}] * 5)) == 1
    assert len(sample_card(Sample(n=5), [], [])) == 1


# Sources and sinks.


def test_sources_in_memory_show_count_columns_and_first_rows() -> None:
    records = [{"a": i, "b": f"x{i}"} for i in range(8)]
    for source in (Source.list(records), Source.dataframe(pd.DataFrame(records))):
        assert head(source) == f"8 records  {source.maker_name()} · 2 columns" and not facts(source)
        (table,) = blocks(source, Table)
        assert cells(table) == [[str(i), i, f"x{i}"] for i in range(5)]
        assert "3 more records" in words(source)
    assert head(Source.list([])) == "0 records  Source.list"
    assert head(Source.list(records).as_step("mine")) == "mine  Source.list · 8 records · 2 columns"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.txt", "a.json"])
def test_files_show_format_size_and_first_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frame = pd.DataFrame({"text": [f"line {i}" for i in range(7)]})
    if name.endswith("jsonl"):
        path.write_text(frame.to_json(orient="records", lines=True), "utf-8")
    elif name.endswith("json"):
        path.write_text(frame.to_json(orient="records"), "utf-8")
    elif name.endswith("csv"):
        frame.to_csv(path, index=False)
    elif name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        path.write_text("\n".join(frame["text"]), "utf-8")
    source = Source.file(path)
    told = facts(source)
    assert re.fullmatch(rf"{path.suffix[1:]}, [\d.]+ (bytes|kB)", told["format"])
    assert "1 column" in head(source)
    (table,) = blocks(source, Table)
    assert [row[1] for row in cells(table)] == [f"line {i}" for i in range(5)]


def test_a_missing_file_is_said_in_place(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("a\n1\n", "utf-8")
    text = words(Source.file(tmp_path / "note.csv"))
    assert "there is no file" in text and "notes.csv" in text


def test_a_large_file_is_not_read_for_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "big.jsonl"
    line = json.dumps({"a": "x" * 200}) + "\n"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(200):
            file.write(line * 500)
    taken = 0
    before = os.times()
    text = words(Source.file(path))
    taken = os.times().user - before.user
    assert "the first 5 records" in text and taken < 1.0  # all of it takes longer
    array = tmp_path / "big.json"
    array.write_text("[" + ",".join([line] * 6_000) + "]", "utf-8")
    source = Source.file(array)
    monkeypatch.setattr(source, "_rows", lambda: pytest.fail("read"))
    assert not blocks(source, Table) and facts(source)["format"] == "json, 1.3 MB"


def test_a_source_of_the_users_own_is_read_for_a_few_rows_and_not_at_all_in_safe_mode() -> None:
    asked: list[int] = []

    class Mine(SourceStep):
        def read(self, chunk: int) -> Iterator[list[dict[str, int]]]:
            for i in range(100):
                asked.append(chunk)
                yield [{"i": i * chunk + k} for k in range(chunk)]

    assert cells(blocks(Mine(), Table)[0])[4] == ["4", 4]
    assert asked == [5]
    dfn.options.preview_on_display = "safe"
    assert not blocks(Mine(), Table) and asked == [5]


def test_a_source_that_raises_is_shown_all_the_same() -> None:
    class Bad(SourceStep):
        def read(self, chunk: int) -> Iterator[list[dict[str, int]]]:
            raise RuntimeError("the tape is torn")

    assert "the tape is torn" in words(Bad())


def test_sinks_show_where_they_write_and_what_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert facts(Sink.jsonl(path))["there now"] == "no file yet"
    path.write_text("{}\n" * 700, "utf-8")
    assert facts(Sink.jsonl(path))["there now"] == "2.1 kB, which is replaced as a whole by a run"
    assert "go after it" in facts(Sink.jsonl(path, append=True))["there now"]
    assert facts(Sink.csv(path, columns=["a", "b"]))["columns"] == "a, b"
    assert path.read_text("utf-8") == "{}\n" * 700
    bad = words(Sink.parquet(tmp_path / "none" / "x.parquet"))
    assert "does not exist" in bad
    sink = Sink.list()
    (Source.list([{"a": 1}]) >> sink).run()
    assert facts(sink) == {"records": "1 record of the last run"}


def test_a_sink_of_the_users_own_is_not_asked_anything() -> None:
    class Mine(SinkStep):
        def check(self) -> None:
            raise AssertionError("displays run no function of the user's")

        def path(self) -> str | None:
            raise AssertionError("displays run no function of the user's")

    assert head(Mine()).startswith("Mine")


# The memo.


def fill(memo: Memo, n: int, n_models: int = 2) -> None:
    """Rows as the writer makes them, in one transaction."""

    def rows() -> Iterator[tuple[str, float, bytes]]:
        for i in range(n):
            name = f"{i:064x}/a-0"
            who = {"provider": "openai", "endpoint": "", "model": f'm"{i % n_models}'}
            body = {"i": who, "r": [Reply("text", "usable", created=1.7e9 + i)]}
            yield name, 1.7e9 + i, seal(name, dump(body))

    memo._access.change(lambda con: con.executemany(database.INSERT, rows()))


def test_the_memo_shows_folder_answers_models_and_how_to_hand_them_on() -> None:
    rows = Source.list([{"a": "x"}, {"a": "y"}])
    for name in ("m1", "m2"):
        (rows >> LLMStep(prompt="{a}", output_columns=["b"], model=FakeModel(name=name))).run()
    (rows[:1] if False else rows >> LLMStep(
        prompt="{a}!", output_columns=["b"], model=FakeModel(name="m1"))).run()  # fmt: skip
    for thing in (dfn.memo, dfn.memo.info()):
        assert head(thing).startswith("Memo: 6 answers")
        (table,) = blocks(thing, Table)
        assert cells(table) == [["fake/m1", "4"], ["fake/m2", "2"]]
        assert "memo.export(" in words(thing)
    assert facts(dfn.memo.info())["verdicts"] == "6 usable"


def test_an_empty_memo_says_so() -> None:
    assert head(dfn.memo).startswith("Memo: no answer yet")
    assert head(dfn.memo.info()).startswith("Memo: no answer yet")


def test_a_large_memo_is_shown_at_once_and_says_what_was_looked_at() -> None:
    memo = open_memo()
    fill(memo, N_LOOKED_AT + 500)
    assert head(memo).startswith(f"Memo: {N_LOOKED_AT + 500:,} answers  from ")
    (table,) = blocks(memo, Table)
    assert sum(int(row[1].replace(",", "")) for row in cells(table)) == N_LOOKED_AT
    assert 'openai/m\\"0' in words(memo) or 'openai/m"0' in words(memo)
    assert f"newest {N_LOOKED_AT:,}" in words(memo)
    assert "newest" not in words(memo.info()).replace("newest row", "")


def test_a_look_at_the_memo_takes_as_long_for_many_rows_as_for_few() -> None:
    memo = open_memo()
    fill(memo, 20_000)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    original = database.connect

    def connect(*args: Any, **kwargs: Any) -> Any:
        con = original(*args, **kwargs)
        con.set_progress_handler(count, 1_000)
        return con

    database.connect = connect
    try:
        memo.view()
    finally:
        database.connect = original
    # 20,000 rows visited would be at least 60,000 instructions of SQLite.
    assert 0 < steps < 40


def test_a_look_at_the_memo_waits_for_no_lock_and_changes_nothing() -> None:
    memo = open_memo()
    fill(memo, 3)
    con = database.connect(memo.path / database.DB_NAME, wait_s=1)
    con.execute("BEGIN EXCLUSIVE")
    try:
        started = time.monotonic()
        assert head(memo).startswith("Memo: 3 answers")
        assert time.monotonic() - started < 2
    finally:
        con.close()
    content = (memo.path / database.DB_NAME).read_bytes()
    (memo.path / database.DB_NAME).write_bytes(b"no database" * 100)
    names = sorted(p.name for p in memo.path.iterdir())
    assert "cannot be read now" in words(memo)
    assert sorted(p.name for p in memo.path.iterdir()) == names  # nothing was mended
    (memo.path / database.DB_NAME).write_bytes(content)


def test_warnings_of_the_memo_stand_on_its_card() -> None:
    memo = open_memo()
    memo._access.said["the memo lies on a network drive"] = None
    assert "! the memo lies on a network drive" in words(memo)


# Runs and their progress.


def progress(done: int, total: int = 100, *, step: str = "ask", new: int | None = None) -> Progress:
    new = done if new is None else new
    return Progress(step, total, done, done - new, new, 0, 0.001 * new)


def test_a_snapshot_counts_rate_and_time_left_from_new_calls() -> None:
    at = Snapshot().after(RunStarted(("list", "ask", "judge")), 0.0)
    at = at.after(StepStarted("ask", 1, 100), 1.0)
    at = at.after(progress(50, new=10), 10.0)  # 40 were in the memo
    assert at.left_s is None  # one moment tells no rate
    at = at.after(progress(60, new=20), 15.0)
    assert at.calls_per_s == pytest.approx(2.0) and at.left_s == pytest.approx(20.0)
    at = at.after(StepFinished("ask", 1, 100, 100), 16.0)
    at = at.after(StepStarted("judge", 2, 50), 16.0).after(progress(1, 50, step="judge"), 17.0)
    assert at.left_s is None and at.paid_usd == pytest.approx(0.021)


@given(st.floats(0.05, 50), st.integers(2, 40), st.integers(0, 50))
def test_the_time_left_is_right_at_a_constant_rate(rate: float, n: int, answered: int) -> None:
    total = 100 + answered
    at = Snapshot()
    for i in range(n + 1):
        at = at.after(Progress("ask", total, answered + i, answered, i, 0, 0.0), i / rate)
    assert at.left_s == pytest.approx((100 - n) / rate)


def test_steps_that_ask_at_the_same_time_are_counted_together() -> None:
    run, emit, release, clock = held()
    try:
        emit(RunStarted(("list", "ask", "judge")))
        emit(StepStarted("ask", 1, 100))
        emit(StepStarted("judge", 2, None))
        emit(progress(10))
        emit(progress(4, step="judge"))
        clock[0] = 4.0
        emit(progress(20))
        emit(progress(10, step="judge"))
        assert repr(run) == "Run(running 30/200, $0.030, ETA 34 s)"
        assert head(run) == "Running  30 of 200 calls of ask + judge"
        assert facts(run)["steps"] == "ask + judge, at the same time"
        assert facts(run)["left"] == "about 34 s for these steps"
        emit(StepFinished("ask", 1, 100, 100))
        emit(StepFinished("judge", 2, 100, 100))
        emit(progress(3, 5, step="last"))
        assert head(run) == "Running  3 of 5 calls of last"
        assert legend(run).endswith("paid $0.033")
    finally:
        release.set()


def held() -> tuple[Run, Callable[[Any], None], threading.Event, list[float]]:
    """A run whose events the test emits, on a clock of the test's."""
    release = threading.Event()
    listeners: list[Callable[[Any], None]] = []
    ready = threading.Event()
    clock = [0.0]

    def work(stop: threading.Event, listen: Callable[[Any], None]) -> Result:
        listeners.append(listen)
        ready.set()
        assert release.wait(20)
        return (Source.list([{"a": 1}])).__rshift__(Map(lambda r: r)).run()

    run = Run(work, clock=lambda: clock[0])
    assert ready.wait(20)
    return run, listeners[0], release, clock


def test_a_run_shows_where_it_stands_the_same_until_something_happens() -> None:
    run, emit, release, clock = held()
    try:
        assert repr(run) == "Run(running)"
        emit(RunStarted(("list", "ask")))
        emit(StepStarted("ask", 1, 100))
        emit(progress(10))
        clock[0] = 8.0
        emit(progress(42))
        assert repr(run) == "Run(running 42/100, $0.042, ETA 14 s)"
        first = shown(run)
        clock[0] = 1_000.0
        assert shown(run) == first
        assert head(run) == "Running  42 of 100 calls of ask"
        assert legend(run) == "● 0 from the memo | ○ 42 new | paid $0.042"
        assert facts(run) == {
            "step": "ask, 2 of 2",
            "rate": "4 new calls a second",
            "left": "about 14 s for this step",
        }
        assert "run.stop()" in words(run) and "await run" in words(run)
        run.stop()
        assert head(run).startswith("Stopping") and repr(run) == "Run(stopping 42/100, $0.042)"
    finally:
        release.set()
    run.result(20)
    assert repr(run).startswith("Run(complete 42/100") and "run.result()" in words(run)
    assert not blocks(run, Facts)


def test_a_run_that_failed_shows_why() -> None:
    def work(stop: threading.Event, listen: Callable[[Any], None]) -> Result:
        raise LLMError("no model of this name", kind="not_found")

    run = Run(work)
    with pytest.raises(LLMError):
        run.result(20)
    assert head(run).startswith("Run failed") and "no model of this name" in words(run)


def test_a_real_run_ends_with_its_figures() -> None:
    model = FakeModel(name="run-1")
    rows = Source.list([{"a": str(i)} for i in range(7)])
    run = (rows >> LLMStep(prompt="{a}", output_columns=["b"], model=model)).start()
    run.result(20)
    assert repr(run) == "Run(complete 7/7)"
    assert "7 of 7 calls · 7 records" in head(run)


def test_the_progress_line_of_a_notebook_is_small_and_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from IPython import display as ipython

    drawn: list[dict[str, str]] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            drawn.append(data)

    def display(data: dict[str, str], **kwargs: Any) -> Handle:
        drawn.append(data)
        return Handle()

    monkeypatch.setattr(ipython, "display", display)
    line = NotebookLine()
    step = "<script>alert(1)</script>$x$ " + "y" * 500
    line(Progress(step, 100_000, 5, 2, 3, 1, 0.5))
    line(Noted("a remark"))
    line(RunFinished("complete", 5))
    assert len(drawn) == 2
    for data in drawn:
        html = data["text/html"]
        assert len(html.encode()) <= 2_000 and "<script" not in html
        assert "3 new" in data["text/plain"] and "1 failed" in data["text/plain"]


# All of them.


def everything(tmp_path: Path) -> dict[str, Any]:
    """One object of every kind that has a card, with the key wherever one may stand."""
    step = LLMStep(
        prompt="{a}",
        output_columns=["b"],
        model=[OpenAIModel("gpt-4o-mini", api_key=KEY), FakeModel()],
        extra={"headers": {"Authorization": f"Bearer {KEY}"}, "note": f"my key is {KEY}"},
        skip_if=lambda r: False,
    )
    headers = {"x-api-key": KEY}
    return {
        "openai": OpenAIModel("gpt-4o-mini", api_key=KEY, organization="o", headers=headers),
        "env": OpenAIModel("gpt-4o-mini"),
        "compatible": OpenAICompatibleModel("m", f"http://u:{KEY}@h/v1?k={KEY}", api_key=KEY),
        "named": OpenAICompatibleModel(f"m-{KEY}", "http://h/v1", api_key=KEY),
        "fake": FakeModel(),
        "local": LocalModel(),
        "llm": step,
        "map": Map(lambda r: r),
        "flatmap": FlatMap(lambda r: [r]),
        "filter": Filter(lambda r: True),
        "seed": Seed.product(Seed.values("a", ["x", "y"]), Seed.range("b", 1, 3)),
        "sample": Sample(n=3),
        "items": Sample([OpenAIModel("gpt-4o-mini", api_key=KEY), FakeModel()], n=1),
        "list": Source.list([{"a": "x"}]),
        "file": Source.file(tmp_path / "no.csv"),
        "sink": Sink.jsonl(tmp_path / "out.jsonl"),
        "collect": Sink.list(),
        "memo": dfn.memo,
        "info": dfn.memo.info(),
        "price": Price(1, 2),
    }


def test_a25_a_planted_key_stands_in_no_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name, thing in everything(tmp_path).items():
        if name == "price":
            continue
        forms = [repr(thing), thing._repr_html_(), thing._repr_markdown_(), repr(thing.view())]
        forms += thing._repr_mimebundle_().values()
        for form in forms:
            # Nor a piece of it that would help to guess the rest.
            assert all(KEY[i : i + 9] not in form for i in range(len(KEY) - 8)), name


def test_cards_ask_nobody_open_nothing_and_run_no_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a card must not do this")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = FakeModel(refuse)
    monkeypatch.setattr(model, "complete", refuse)
    step = LLMStep(prompt="{a}", output_columns=["b"], model=model, skip_if=refuse)
    things = [
        *everything(tmp_path).values(),
        model,
        step,
        Map(refuse),
        Filter(refuse),
        FlatMap(refuse),
    ]
    for thing in things:
        if not isinstance(thing, Price):
            shown(thing)
        assert repr(thing)
    assert model.calls == 0


def test_cards_are_the_same_each_time_and_hold_no_address(tmp_path: Path) -> None:
    class Odd:
        def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
            return record

    things = {**everything(tmp_path), "odd": Map(Odd()), "odd items": Sample([Odd(), Odd()], n=1)}
    for name, thing in things.items():
        if name == "price":
            continue
        first = shown(thing)
        assert shown(thing) == first, name
        assert " at 0x" not in json.dumps(first), name


HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m</script>$1 and $2"


def test_cards_show_hostile_text_as_text(tmp_path: Path) -> None:
    things = [
        FakeModel(name=HOSTILE, provider=HOSTILE),
        LLMStep(prompt=HOSTILE, system_prompt=HOSTILE, output_columns=["b"],
                model=FakeModel(name=HOSTILE)).as_step(HOSTILE),
        Seed.values(HOSTILE, [HOSTILE]),
        Sample([HOSTILE, HOSTILE], n=1).as_step(HOSTILE),
        Source.list([{HOSTILE: HOSTILE}]).as_step(HOSTILE),
        Sink.list().as_step(HOSTILE),
        Map(lambda r: r).as_step(HOSTILE),
    ]  # fmt: skip
    for thing in things:
        forms = shown(thing)
        assert "<img" not in forms["text/html"] and "</script" not in forms["text/html"]
        for form in forms.values():
            assert "\x1b" not in form and "\u202e" not in form


def test_cards_are_small(tmp_path: Path) -> None:
    long = "word " * 4_000
    things = [
        *everything(tmp_path).values(),
        FakeModel(name=long),
        LLMStep(prompt=[long] * 50, output_columns=[f"c{i}" for i in range(500)],
                model=[FakeModel(name=f"m{i}") for i in range(200)]),
        Seed.product(*(Seed.values(f"c{i}", [long, "b"]) for i in range(40))),
        Sample([long] * 1_000, n=3),
        Source.list([{f"c{i}": long for i in range(300)}] * 20),
    ]  # fmt: skip
    for thing in things:
        if not isinstance(thing, Price):
            forms = shown(thing)
            assert len(forms["text/html"].encode()) <= 200_000, repr(thing)[:80]
            assert len(forms["repr"]) <= 5_000


def test_a_view_is_plain_data(tmp_path: Path) -> None:
    for name, thing in everything(tmp_path).items():
        if name != "price":
            assert isinstance(thing.view(), Document), name


def test_calls_that_a_budget_refused_are_not_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAFAST_NB_PROGRESS", "1")
    model = FakeModel(name="poor-1", price=(1_000.0, 1_000.0))
    rows = Source.list([{"a": str(i)} for i in range(8)])
    pipeline = rows >> LLMStep(prompt="{a}", output_columns=["b"], model=model)
    with pytest.raises(BudgetExceededError) as caught:
        pipeline.run(budget=0.01)
    said = capsys.readouterr().err
    assert "0 of 8 calls, 0 answered, 0 new" in said and "8 of 8" not in said
    assert "budget=$0.01 is too little: the next call may cost up to $" in str(caught.value)
    run = pipeline.start(budget=0.01)
    run.result(20)
    assert "0 of 8 calls" in head(run)


def test_prices_are_said_in_one_way() -> None:
    assert facts(FakeModel(price=(2.5, 10)))["price"] == (
        "$2.50 in, $10 out per 1M tokens · as given"
    )


@pytest.mark.parametrize(
    ("value", "said"), [(5, "$5.00"), (0.25, "$0.25"), (0.015, "$0.015"), (1_200.5, "$1,200.50")]
)
def test_a_limit_is_printed_as_typed(value: float, said: str) -> None:
    assert formats.limit_usd(value) == said
