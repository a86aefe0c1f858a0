"""Looking back from any value of any record agrees with plain code that wrote everything down."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb import FakeModel, Filter, FlatMap, LLMStep, Map, Sample, Source
from datafast_nb.display import html, text
from datafast_nb.options import options
from datafast_nb.store.memo import open_memo

Record = dict[str, Any]


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives an empty memo to each example of a property."""

    def make() -> None:
        if options.home is not None:
            open_memo().close()
        options.home = tmp_path_factory.mktemp("home")

    return make


# Plain code: every record carries who wrote what.


@dataclass(frozen=True)
class Origin:
    kind: str
    step: str
    record_in: Record | None = None
    prompt: str | None = None
    reply: str | None = None


@dataclass(frozen=True)
class Item:
    record: Record
    row: int
    origins: dict[str, Origin]
    way: tuple[Record, ...]
    prompts: tuple[str, ...] = ()


@dataclass
class Plain:
    items: list[Item]
    tables: list[list[Record]] = field(default_factory=list)
    dropped: list[list[Record]] = field(default_factory=list)
    prompts: list[list[str]] = field(default_factory=list)

    def end(self, items: list[Item], used: set[int], prompts: list[str]) -> None:
        self.dropped.append([x.record for i, x in enumerate(self.items) if i not in used])
        self.items = [replace(x, way=(*x.way, x.record)) for x in items]
        self.tables.append([x.record for x in items])
        self.prompts.append(prompts)


def answer(prompt: str) -> str:
    """A reply by the prompt; every fifth is empty, whenever it is asked."""
    digest = blake2b(prompt.encode(), digest_size=4).digest()
    return "" if digest[0] % 5 == 0 else f"{prompt}: {digest.hex()}"


def halve(records: Any) -> Any:
    return [r for i, r in enumerate(records) if i % 2 == 0][::-1]


class Halve(dfn.Step):
    def process(self, records: Any) -> Any:
        return halve(list(records))


def mapped(record: Record, number: int, k: int) -> Record:
    if k == 0:
        return {**record, "n": record["n"] * 7 % 11}
    if k == 1:
        return {**record, f"m{number}": record["n"] + 100}
    if k == 2:  # renames what may be a model's
        return {(f"x{number}" if c.startswith("c") else c): v for c, v in record.items()}
    return dict(record)


def flat_mapped(record: Record, k: int) -> list[Record]:
    return [{**record, "n": record["n"] + j} for j in range(record["n"] % (k + 2))]


def prompts_of(number: int, k: int) -> list[str]:
    return [f"step {number} on {{n}}", f"again {number}, {{n}}"][: 1 + (k == 1)]


def skips(record: Record) -> bool:
    return bool(record["n"] % 5 == 1)


def real_step(kind: str, number: int, k: int, model: FakeModel) -> dfn.Step:
    match kind:
        case "map":
            return Map(lambda r: mapped(r, number, k))
        case "flat_map":
            return FlatMap(lambda r: flat_mapped(r, k))
        case "filter":
            return Filter(lambda r: r["n"] % (k + 2) != 0)
        case "first":
            return Sample(n=k * 3 + 2, strategy="first")
        case "own":
            return Halve()
    return LLMStep(
        prompts_of(number, k),
        output_columns=[f"c{number}"],
        model=model,
        num_outputs=1 + (k == 2),
        skip_if=skips if k == 3 else None,
        retry_delay=0.0,
    )


def plain_step(plain: Plain, kind: str, number: int, k: int) -> None:
    name = f"s{number}"
    out: list[tuple[int, Item]] = []
    prompts: list[str] = []
    items = plain.items
    for i, item in enumerate(items):
        record = item.record
        match kind:
            case "map":
                out.append((i, by_function(item, mapped(record, number, k), name)))
            case "flat_map":
                out += [(i, by_function(item, r, name)) for r in flat_mapped(record, k)]
            case "filter":
                out += [(i, item)] if record["n"] % (k + 2) != 0 else []
            case "first":
                out += [(i, item)] if i < k * 3 + 2 else []
            case "own":
                out.append((i, item))
            case _:
                out += [(i, made) for made in by_model(item, number, k, name, prompts)]
    if kind == "own":
        out = halve(out)
    plain.end([x for _, x in out], {i for i, _ in out}, prompts)


def by_function(item: Item, record: Record, step: str) -> Item:
    origins = {}
    for column, value in record.items():
        kept = column in item.record and item.record[column] == value
        origins[column] = (
            item.origins[column] if kept else Origin("function", step, record_in=item.record)
        )
    return replace(item, record=record, origins=origins)


def by_model(item: Item, number: int, k: int, step: str, prompts: list[str]) -> list[Item]:
    column = f"c{number}"
    books = ["_model", *(["_prompt_index"] if k == 1 else []), *(["_output_index"] if k == 2 else [])]  # fmt: skip
    kept = {c: v for c, v in item.record.items() if not c.startswith("_")}
    made = []
    if k == 3 and skips(item.record):
        record = {**kept, **dict.fromkeys([column, *books])}
        skipped = Origin("skipped", step, record_in=item.record)
        return [replace(item, record=record, origins={**item.origins, **dict.fromkeys([column, *books], skipped)})]  # fmt: skip
    for p, template in enumerate(prompts_of(number, k)):
        for output in range(1 + (k == 2)):
            prompt = template.format(n=item.record["n"])
            prompts.append(prompt)
            reply = answer(prompt)
            if not reply:
                continue
            values = {column: reply, "_model": "fake", "_prompt_index": p, "_output_index": output}
            record = {**kept, **{c: values[c] for c in [column, *books]}}
            origin = Origin("model", step, item.record, prompt, reply)
            origins = {**item.origins, **dict.fromkeys([column, *books], origin)}
            made.append(replace(item, record=record, origins=origins, prompts=(*item.prompts, prompt)))  # fmt: skip
    return made


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["map", "flat_map", "filter", "first", "own", "llm", "llm"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60)
@given(
    numbers=st.lists(st.integers(0, 12), min_size=1, max_size=14),
    steps=STEPS,
    keep=st.sampled_from([2, 50_000]),
    data=st.data(),
)
def test_looking_back_agrees_with_plain_code(
    new_home: Any, numbers: list[int], steps: list[tuple[str, int]], keep: int, data: Any
) -> None:
    new_home()
    options.keep_rows = keep
    model = FakeModel(lambda request: answer(request.messages[-1]["content"]))
    rows = [{"n": n, "row": i} for i, n in enumerate(numbers)]
    pipeline = dfn.Pipeline([Source.list(rows).as_step("source")])
    plain = Plain([Item(r, i, dict.fromkeys(r, Origin("source", "source")), (r,)) for i, r in enumerate(rows)])  # fmt: skip
    for number, (kind, k) in enumerate(steps):
        pipeline = pipeline >> real_step(kind, number, k, model).as_step(f"s{number}")
        plain_step(plain, kind, number, k)
    try:
        result = pipeline.run()
    except dfn.LLMError as exc:  # every record was lost
        assert exc.result is not None and len(exc.result) == 0
        return
    asked = model.calls
    assert list(result) == [x.record for x in plain.items]
    check_tables(result, plain)
    for i, item in enumerate(plain.items):
        check_trace(result, i, item, keep)
    if plain.items:
        chosen = data.draw(st.lists(st.integers(0, len(plain.items) - 1), max_size=3, unique=True))
        for i in chosen:
            for column in plain.items[i].record:
                check_why(result, i, column, plain.items[i])
    assert model.calls == asked, "looking back asks nobody"


def check_tables(result: dfn.Result, plain: Plain) -> None:
    for k in range(len(plain.tables)):
        assert list(result.at(k + 1)) == plain.tables[k]
        assert list(result.dropped(k + 1)) == plain.dropped[k]
        prompts = [c.messages[-1]["content"] for c in result.step(k + 1).calls if c.messages]
        assert prompts == plain.prompts[k]


def check_trace(result: dfn.Result, i: int, item: Item, keep: int) -> None:
    trace = result.trace(i)
    assert trace.record == item.record
    made = [c for c in trace.calls if c.messages and c.status != "failed"]
    assert [c.messages[-1]["content"] for c in made if c.messages] == list(item.prompts)
    if keep > 2:
        assert [s.records for s in trace.trace] == [(r,) for r in item.way]
        assert trace.trace[0].row == item.row


def check_why(result: dfn.Result, i: int, column: str, item: Item) -> None:
    why = result.why(i, column)
    origin = item.origins[column]
    assert (why.kind, why.step, why.value) == (origin.kind, origin.step, item.record[column])
    assert (why.row, why.column, why.source_index) == (i, column, item.row)
    assert why.record_in == origin.record_in
    assert why.reply == origin.reply
    assert (why.messages[-1]["content"] if why.messages else None) == origin.prompt
    assert why.notes == () or why.kind == "skipped"
    if origin.kind == "function" and isinstance(why.value, str):
        assert why.origin is not None and why.origin.value == why.value
    made = why.to_dict()
    assert made["value"] == why.value and made["step"] == why.step
    assert text.draw(why.view()) and len(html.draw(why.view())) < 60_000


def test_prompts_and_replies_that_were_not_kept_are_found_again() -> None:
    options.keep_rows = 5
    model = FakeModel(lambda request: f"re: {request.messages[-1]['content']}", price=(1.0, 1.0))
    rows = [{"id": i} for i in range(400)]
    pipeline = Source.list(rows) >> LLMStep("On {id}", output_columns=["q"], model=model)
    result = pipeline.run()
    far = result.step(1).calls[-1]
    assert far.messages is None and far.text is None
    why = result.why(-1, "q")
    assert (why.row, why.reply, why.source_index) == (399, "re: On 399", 399)
    assert why.messages is not None and why.messages[-1]["content"] == "On 399"
    assert why.call is not None and why.call.asked_at == far.asked_at
    near = result.step(1).calls[0]
    assert near.messages is not None and near.text == "re: On 0", "displays need no look-up"
    assert model.calls == 400


class Sorted(dfn.Step):
    def process(self, records: Any) -> Any:
        return sorted(records, key=lambda r: r["id"])


@pytest.mark.parametrize("between", [[], [Sorted()]])
def test_a_memo_that_has_changed_never_gives_another_value(tmp_path: Any, between: Any) -> None:
    options.keep_rows = 2
    rows = [{"id": i} for i in range(300)]
    model = FakeModel(lambda request: request.messages[-1]["content"])
    pipeline = Source.list(rows) >> LLMStep("On {id}", output_columns=["q"], model=model)
    for step in [*between, Map(lambda r: {**r, "z": r["id"]})]:
        pipeline = pipeline >> step
    result = pipeline.run()
    options.home = tmp_path / "elsewhere"
    if between:  # the step saw all records: they are all computed again, from the memo
        with pytest.raises(dfn.DatafastError, match="memo has changed"):
            result.why(0, "z")
    else:  # the run has what the model said
        assert result.why(299, "z").record_in == {"id": 299, "q": "On 299", "_model": "fake"}


def test_one_value_of_a_large_result_costs_one_call_of_each_function() -> None:
    options.keep_rows = 100
    called = [0]

    def counted(record: Record) -> Record:
        called[0] += 1
        return {**record, "n": called[0]}

    pipeline = Source.list([{"id": i} for i in range(3_000)]) >> Map(counted)
    for _ in range(3):
        pipeline = pipeline >> Map(counted) >> FlatMap(lambda r: [r, r] if r["id"] % 2 else [r])
    result = pipeline.run()
    called[0] = 0
    at = len(result) - 3
    assert result.why(at, "id").source_index == result[at]["id"]
    assert called[0] == 4
    for i in (at, at, -1):  # the last comes from the same row
        result.why(i, "id")
    result[at:].why(0, "id")
    assert called[0] < 12, "what was computed again is kept with the run"


def test_a_step_over_all_records_is_computed_again_once() -> None:
    options.keep_rows = 100
    called = [0]

    def counted(record: Record) -> Record:
        called[0] += 1
        return record

    result = (Source.list([{"id": i} for i in range(300)]) >> Map(counted) >> Sorted()).run()
    called[0] = 0
    for i in range(5):
        assert result.why(i, "id").source_index == i
    assert called[0] <= 305


def test_a_source_that_has_changed_is_an_error_not_another_value(tmp_path: Any) -> None:
    options.keep_rows = 2
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"id": {i}}}\n' for i in range(10)))
    result = (Source.file(str(path)) >> ask() >> Map(lambda r: {**r, "z": 1})).run()
    assert result.why(3, "id").source_index == 3
    assert result.why(-1, "z").record_in is not None
    path.write_text("".join(f'{{"id": {i}}}\n' for i in range(1, 11)))
    with pytest.raises(dfn.DatafastError, match="changed since"):
        result.why(4, "id")
    path.write_text('{"id": 0}\n')
    with pytest.raises(dfn.DatafastError, match="changed since"):
        result.why(7, "id")


def ask(**more: Any) -> LLMStep:
    return LLMStep("On {id}", output_columns=["q"], model=FakeModel(), **more)


def test_what_cannot_be_looked_up_is_an_error_that_helps() -> None:
    result = (Source.list([{"id": i} for i in range(3)]) >> ask()).run()
    with pytest.raises(IndexError, match=r"no record 3: the Result has 3 records.*0 to 2"):
        result.why(3, "q")
    with pytest.raises(IndexError, match="it is empty"):
        result[:0].why(0, "q")
    with pytest.raises(KeyError, match=r"no column 'idd'.*Did you mean 'id'.*Its columns: id, q"):
        result.why(0, "idd")
    with pytest.raises(ValueError, match="came from no run"):
        dfn.Result([{"a": 1}]).why(0, "a")
    with pytest.raises(TypeError):
        result.why("0", "q")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r.append({"id": 9}),
        lambda r: r.sort(key=lambda x: -x["id"]),
        lambda r: r.reverse(),
        lambda r: r.append(r.pop(0)),
        lambda r: r.__setitem__(0, {"id": 9, "q": "mine"}),
        lambda r: (r.remove(r[0]), r.append({"id": 9, "q": "mine"})),
        lambda r: (r.clear(), r.extend([{"id": 9, "q": "mine"}] * 3)),
        lambda r: (r.insert(0, {"id": 9}), r.pop()),
        lambda r: (r.__delitem__(0), r.append({"id": 9})),
    ],
)
def test_an_edited_result_does_not_tell_of_other_records(edit: Any) -> None:
    result = (Source.list([{"id": i} for i in range(3)]) >> ask()).run()
    part = result[1:]
    edit(result)
    for act in (lambda: result.why(0, "id"), lambda: result.trace(0), lambda: result[:1].trace(0)):
        with pytest.raises(ValueError, match="edited as a list"):
            act()
    assert part.why(0, "id").source_index == 1, "a slice from before stays as it was"
    assert "edited" in repr(result)


def test_a_value_that_was_changed_in_place_says_so() -> None:
    result = (Source.list([{"id": 1, "tags": ["a"]}]) >> ask()).run()
    result[0]["tags"].append("b")
    result[0]["q"] = "mine"
    assert "changed after the run" in result.why(0, "q").notes[0]
    assert result.why(0, "tags").value == ["a", "b"]
    assert "changed after the run" in repr(result.why(0, "tags"))
    assert result.why(0, "id").notes == ()


def test_a_slice_and_dropped_records_are_looked_back_from() -> None:
    pipeline = (
        Source.list([{"id": i} for i in range(6)]) >> ask() >> Filter(lambda r: r["id"] % 2 == 0)
    )
    result = pipeline.run()
    assert result[1:].why(0, "q").source_index == result.why(1, "q").source_index == 2
    assert result[::-1].why(0, "id").source_index == 4
    dropped = result.dropped(2)
    assert [dropped.why(i, "q").source_index for i in range(3)] == [1, 3, 5]


def test_values_of_a_result_that_went_on_are_followed_into_its_run() -> None:
    first = (Source.list([{"id": i} for i in range(4)]) >> ask()).run()
    more = LLMStep("More on {q}", output_columns=["z"], model=FakeModel())
    result = (first[2:] >> more).run()
    why = result.why(1, "q")
    assert (why.kind, why.step, why.source_index, why.row) == ("model", "step_002_llmstep", 3, 1)
    assert why.messages is not None and why.messages[-1]["content"] == "On 3"
    assert "record 1 of a Result" in why.notes[0]
    assert result.why(1, "z").messages[-1]["content"] == f"More on {first[3]['q']}"  # type: ignore[index]


@pytest.mark.parametrize("how", [{"limit": 2, "pick": "spread"}, {"limit": 2, "pick": "random"}])
@pytest.mark.parametrize("limit_at", ["source", None])
def test_rows_are_those_of_the_source_also_under_a_limit(how: Any, limit_at: Any) -> None:
    rows = [{"id": i * 10} for i in range(9)]
    result = (Source.list(rows) >> ask()).run(**how, limit_at=limit_at)
    for i, record in enumerate(result):
        assert result.why(i, "id").source_index == record["id"] // 10
        assert result.trace(i).trace[0].row == record["id"] // 10


class Doubled(dfn.Step):
    def process(self, records: Any) -> Any:
        return [dict(r) for r in records for _ in range(2)]


def test_a_step_that_hides_the_lineage_is_named() -> None:
    rows = [{"id": i} for i in range(3)]
    pipeline = Source.list(rows) >> Doubled().as_step("double") >> ask()
    result = pipeline.run()
    why = result.why(4, "id")
    assert (why.kind, why.step, why.source_index) == ("unknown", "double", None)
    assert "hides" in repr(why)
    assert result.why(4, "q").kind == "model"
    after = (result >> Map(lambda r: {**r, "z": 1})).run()
    assert after.why(0, "z").kind == "function"


def test_what_is_shown_holds_prompt_reply_and_price() -> None:
    model = FakeModel(lambda r: {"q": "Why?", "a": "So."}, price=(1.0, 2.0), name="m-1")
    step = LLMStep("On {id}", output_columns=["q", "a"], model=model, system_prompt="Be brief")
    result = (Source.list([{"id": 7}]) >> step.as_step("ask")).run()
    why = result.why(0, "a")
    shown = repr(why)
    for words in ("a of record 0", "ask", "m-1", "Be brief", "On 7", '"q":"Why?"', "key "):
        assert words in shown.replace('": "', '":"'), words
    assert why.key == why.call.key[:8] and len(why.key) == 8  # type: ignore[union-attr]
    assert why.to_dict()["parsed"] == {"q": "Why?", "a": "So."}
    assert set(why._repr_mimebundle_()) == {"text/plain", "text/html", "text/markdown"}
