import asyncio
import pickle

import orjson
import pytest

from datafast_nb.errors import LLMError, MemoError
from datafast_nb.models.base import Request, Response
from datafast_nb.models.pricing import price_of
from datafast_nb.models.replay import ReplayModel
from datafast_nb.store.exchange import FORMAT, FORMAT_VERSION
from datafast_nb.store.keys import KEY_VERSION, RequestKeys
from datafast_nb.store.memo import Memo
from datafast_nb.store.rows import Reply

GPT = {"provider": "openai", "endpoint": "", "model": "gpt-4o"}
OTHER = {"provider": "local", "endpoint": "sha256:0", "model": "tiny"}


def request(prompt="Hello", **settings) -> Request:
    return Request(({"role": "user", "content": prompt},), **settings)


def entry(asked: Request, *replies: dict, identity=GPT, label="row-0") -> dict:
    keys = RequestKeys(
        identity,
        temperature=asked.temperature,
        max_tokens=asked.max_tokens,
        top_p=asked.top_p,
        schema=asked.schema,
        extra=asked.extra,
    )
    return {
        "key": keys.key(asked.messages),
        "labels": [label],
        "identity": identity,
        "replies": list(replies),
    }


def reply(text: str, verdict="usable", **more) -> dict:
    return {"text": text, "verdict": verdict, "finish": "stop", "input_tokens": 3} | more


@pytest.fixture
def write(tmp_path):
    def write(*entries):
        path = tmp_path / "calls.jsonl"
        lines = [{FORMAT: FORMAT_VERSION, "key_version": KEY_VERSION}, *entries]
        path.write_bytes(b"\n".join(orjson.dumps(line) for line in lines) + b"\n")
        return path

    return write


def ask(model: ReplayModel, asked: Request) -> Response:
    return asyncio.run(model.complete(asked))


def test_draws_come_in_order_each_once_then_a_miss(write):
    path = write(
        entry(request(), reply("first", output_tokens=2, model="gpt-4o-2024")),
        entry(request(), reply("second"), label="row-1"),
        entry(request("else"), reply("third")),
    )
    model = ReplayModel(path)
    first = ask(model, request())
    assert (first.text, first.model) == ("first", "gpt-4o-2024")
    assert first.usage is not None
    assert (first.usage.input_tokens, first.usage.output_tokens) == (3, 2)
    assert ask(model, request()).text == "second"
    with pytest.raises(LLMError, match=r"calls\.jsonl: all 2 recorded .*'Hello'") as caught:
        ask(model, request())
    assert caught.value.kind == "replay_miss"
    assert ask(model, request("else")).text == "third"


@pytest.mark.parametrize(
    "asked",
    [
        request("Hello!"),
        request(temperature=0.1),
        request(max_tokens=7),
        request(top_p=0.5),
        request(schema={"type": "object"}),
        request(extra={"seed": 1}),
    ],
)
def test_any_other_request_is_a_miss(write, asked):
    model = ReplayModel(write(entry(request(), reply("first"))))
    with pytest.raises(LLMError, match="no answer to this request") as caught:
        ask(model, asked)
    assert caught.value.kind == "replay_miss" and caught.value.model == "gpt-4o"


def test_long_prompts_are_cut_in_the_message(write):
    model = ReplayModel(write(entry(request(), reply("first"))))
    with pytest.raises(LLMError) as caught:
        ask(model, request("word " * 1000))
    assert len(str(caught.value)) < 400


def test_last_usable_reply_of_a_draw_counts(write):
    path = write(
        entry(
            request(), reply("bad", "unparsable"), reply("good"), reply("cut", "cut"), label="r1"
        ),
        entry(request(), reply("no", "refused", finish="refused"), label="r2"),
        entry(request(), label="r3"),
    )
    model = ReplayModel(path)
    assert ask(model, request()).text == "good"
    assert ask(model, request()).finish == "refused"
    with pytest.raises(LLMError):
        ask(model, request())


def test_identity_is_that_of_the_recorded_model(write):
    model = ReplayModel(write(entry(request(), reply("x"))))
    assert model.identity() == GPT
    assert (model.name, model.provider, model.endpoint) == ("gpt-4o", "openai", "")
    assert "recorded" in repr(model)
    price = price_of(model)
    assert price is not None and price.is_free
    assert model.missing_key() is None


def test_one_of_several_models_is_chosen_by_name(write):
    path = write(entry(request(), reply("x")), entry(request(), reply("y"), identity=OTHER))
    assert ask(ReplayModel(path, model="tiny"), request()).text == "y"
    with pytest.raises(MemoError, match=r"gpt-4o .*tiny .*model="):
        ReplayModel(path)
    with pytest.raises(MemoError, match="'nope'; it has: gpt-4o, tiny"):
        ReplayModel(path, model="nope")


def test_unreadable_recordings_name_file_and_line(write, tmp_path):
    with pytest.raises(MemoError, match=r"none\.jsonl"):
        ReplayModel(tmp_path / "none.jsonl")
    with pytest.raises(MemoError, match="holds no answers"):
        ReplayModel(write())
    path = write(entry(request(), reply("x")))
    path.write_bytes(path.read_bytes() + b'{"key": "torn')
    with pytest.raises(MemoError, match="line 3 is no JSON"):
        ReplayModel(path)
    with pytest.raises(MemoError, match="line 2 is no answer"):
        ReplayModel(write({"key": "k", "replies": []}))


def test_pickled_recording_goes_on_where_it_was(write):
    model = ReplayModel(write(entry(request(), reply("1")), entry(request(), reply("2"))))
    ask(model, request())
    assert ask(pickle.loads(pickle.dumps(model)), request()).text == "2"


def test_export_of_a_memo_is_a_recording(tmp_path):
    memo = Memo(tmp_path / "memo")
    errors: list[BaseException | None] = []
    for label, text in (("row-a", "one"), ("row-b", "two")):
        stored = Reply(text, "usable", input_tokens=4, output_tokens=1, model="gpt-4o-2024")
        key = entry(request())["key"]
        memo.put(key, label, stored, identity=GPT, done=errors.append)
    memo.flush()
    memo.export(tmp_path / "calls.jsonl")
    memo.close()
    assert errors == [None, None]
    model = ReplayModel(tmp_path / "calls.jsonl")
    assert [ask(model, request()).text for _ in range(2)] == ["one", "two"]
    assert model.identity() == GPT


def test_recording_of_another_version_is_refused(write):
    path = write(entry(request(), reply("x")))
    path.write_bytes(path.read_bytes().replace(b'"key_version":', b'"key_version":9'))
    with pytest.raises(MemoError, match=r"line 1: .*another version"):
        ReplayModel(path)
