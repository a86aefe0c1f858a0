"""The API key is in the header of the request, and nowhere else (promise G14 in `docs/reliability.md`).

Every fault of the stub server, and replies that echo the key in many forms, meet each provider
over our own connection and through the official client. All that a user could show, store or
send on is then searched for the key, its pieces of eight characters, and encodings of both.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import pickle
import secrets
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anthropic
import numpy as np
import ollama
import openai
import pandas as pd
import pytest
from stub_server import FAULTS, StubServer, http
from stub_wires import error_body

import datafast_nb as dfn
from datafast_nb.engine.loop import spawn
from datafast_nb.models.base import Request
from datafast_nb.models.wire import SecretHeaders
from datafast_nb.options import options
from datafast_nb.store.memo import close_memos, open_memo

PIECE = 8
MARK = "Kilimanjaro"
"""Text of each prompt: where a search does not find it, it looks at nothing."""


class Hidden:
    """A key that the frames of this test do not show, and what it may look like elsewhere."""

    def __init__(self, prefix: str) -> None:
        # "+" and "/" look different in addresses; without the prefix it has no shape to know it by.
        self._value = (
            f"{prefix}{secrets.token_hex(8)}+{secrets.token_hex(8)}/{secrets.token_hex(6)}"
        )

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "<hidden>"

    def forms(self) -> dict[str, str]:
        key = self._value
        made = {
            "plain": key,
            "reversed": key[::-1],
            "in an address": quote(key, safe=""),
            "in an address, small": quote(key, safe="").lower(),
            "hex": key.encode().hex(),
        }
        for shift in range(3):  # base64 of a text that holds the key: three alignments
            code = base64.b64encode(b"#" * shift + key.encode()).decode()
            made[f"base64, shifted by {shift}"] = code[4 if shift else 0 : -4]
        return made


class Unseen(dict[str, bytes]):
    """Replies with keys in them, which the frames of this test do not show either."""

    def __repr__(self) -> str:
        return "<unseen>"


class Search:
    """Looks for keys in whatever it is shown."""

    def __init__(self, *keys: Hidden) -> None:
        forms = {
            form: f"key {i}, {name}"
            for i, key in enumerate(keys)
            for name, form in key.forms().items()
        }
        self._names = {
            form.encode()[i : i + PIECE]: name
            for form, name in forms.items()
            for i in range(len(form) - PIECE + 1)
        }
        self._digits: dict[bytes, list[bytes]] = {}
        """Pieces of hex forms, and the pieces of twice their length that begin with them."""
        for form, name in forms.items():
            if name.endswith("hex"):
                for i in range(len(form) - 2 * PIECE + 1):
                    longer = form.encode()[i : i + 2 * PIECE]
                    self._digits.setdefault(longer[:PIECE], []).append(longer)
                for i in range(len(form) - 2 * PIECE + 1, len(form) - PIECE + 1):
                    self._digits.setdefault(form.encode()[i : i + PIECE], [])
        words = [int.from_bytes(piece, "little") for piece in self._names]
        # Of each eight bytes two pairs are looked up; what passes is looked at closely.
        self._low, self._high = (np.zeros(1 << 16, dtype=bool) for _ in range(2))
        self._low[[word & 0xFFFF for word in words]] = True
        self._high[[word >> 48 for word in words]] = True
        self.hits: list[str] = []
        self.marked: set[str] = set()
        """Places where the prompt was found."""
        self.places: set[str] = set()

    def see(self, place: str, *texts: str | bytes) -> None:
        for given in texts:
            data = given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
            self.places.add(place)
            if MARK.encode() in data:
                self.marked.add(place)
            self.hits += [f"{place}: {name}" for name in sorted(self.find(data))]

    def find(self, data: bytes) -> set[str]:
        """Forms of keys in the data, by a look at each eight bytes of it."""
        found: set[str] = set()
        for shift in range(PIECE):
            n = (len(data) - shift) // PIECE
            if n <= 0:
                break
            words = np.frombuffer(data, dtype="<u8", count=n, offset=shift)
            words = words[self._low[words & 0xFFFF]]
            words = words[self._high[words >> 48]]
            pieces = {int(word).to_bytes(PIECE, "little") for word in words}
            found |= {
                self._names[piece]
                for piece in pieces
                if piece in self._names and (piece not in self._digits or self._is_hex(data, piece))
            }
        return found

    def _is_hex(self, data: bytes, piece: bytes) -> bool:
        """Eight hex digits are four characters of a key, and a port and a time may look like them."""
        return any(longer in data for longer in self._digits[piece])

    def see_object(self, place: str, thing: Any) -> None:
        """Its texts, its variables, its pickle, and all forms of its display."""
        self.see(place, repr(thing), str(thing))
        if hasattr(thing, "__dict__"):
            self.see(f"vars of {place}", repr(vars(thing)))
        with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
            self.see(f"pickle of {place}", pickle.dumps(thing))
        if hasattr(thing, "_repr_mimebundle_"):
            for form, text in thing._repr_mimebundle_().items():
                self.see(f"{form} of {place}", text if isinstance(text, str) else repr(text))

    def see_error(self, place: str, error: BaseException) -> None:
        """Message, notes, variables, and the traceback with all local variables."""
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        self.see(f"traceback of {place}", "".join(told.format()))
        link: BaseException | None = error
        while link is not None:
            self.see(f"error of {place}", str(link), repr(link), repr(link.args), repr(vars(link)))
            link = link.__cause__ or link.__context__
        with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
            self.see(f"pickled error of {place}", pickle.dumps(error))

    def see_files(self, folder: Path) -> None:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            data = path.read_bytes()
            self.see(f"file {path.suffix}", data)
            if path.suffix == ".parquet":
                self.see(f"file {path.suffix}", pd.read_parquet(path).to_json())
            elif path.suffix == ".gz":
                self.see(f"file {path.suffix}", zlib.decompress(data, 47))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What all loggers of the process say, at DEBUG, with every field of their records."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.getMessage()} {vars(record)!r} {record.exc_text}")

    root, handler = logging.getLogger(), Keep(logging.DEBUG)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


# Providers, over our own connection and through the official client.


@dataclass(frozen=True)
class Provider:
    wire: str
    model: Callable[..., dfn.Model]
    client: Callable[[str, Hidden], Any]
    has_v1: bool
    """The address has a version in it."""

    def build(self, stub: StubServer, client: Any, key: Hidden, **settings: Any) -> dfn.Model:
        if client is not None:
            return self.model(client=client, **settings)
        url = stub.url if self.has_v1 else stub.root
        return self.model(base_url=url, api_key=key.reveal(), **settings)


def _openai_client(url: str, key: Hidden) -> Any:
    return openai.AsyncOpenAI(base_url=url, api_key=key.reveal())


def _anthropic_client(url: str, key: Hidden) -> Any:
    return anthropic.AsyncAnthropic(base_url=url, api_key=key.reveal())


def _ollama_client(url: str, key: Hidden) -> Any:
    return ollama.AsyncClient(host=url, headers={"Authorization": f"Bearer {key.reveal()}"})


PROVIDERS = {
    "chat": Provider("chat", dfn.OpenAIModel, _openai_client, True),
    "responses": Provider(
        "responses", partial(dfn.OpenAIModel, api="responses"), _openai_client, True
    ),
    "gemini": Provider("chat", dfn.GeminiModel, _openai_client, True),
    "anthropic": Provider("messages", dfn.AnthropicModel, _anthropic_client, False),
    "ollama": Provider("ollama", dfn.OllamaModel, _ollama_client, False),
}


def close_client(client: Any) -> None:
    """Close its connections on the loop that opened them."""
    close = getattr(client, "close", None) or client._client.aclose
    spawn(close()).result(10)


# Replies that give the key back.


def said_of(key: Hidden) -> dict[str, str]:
    value = key.reveal()
    return {
        "whole": value,
        "header": f"Authorization: Bearer {value}",
        "piece": f"you sent ...{value[-14:]}",
        "masked": f"{value[:12]}****{value[-12:]}",
        "reversed": value[::-1],
        "base64": base64.b64encode(value.encode()).decode(),
        "base64 of the header": base64.b64encode(f"Bearer {value}".encode()).decode(),
        "base64 of the login": base64.b64encode(f"me:{value}".encode()).decode(),
        "address": f"http://h/v1?key={quote(value, safe='')}&x=1",
        "address, small": f"http://h/v1?key={quote(value, safe='').lower()}&x=1",
        "hex": value.encode().hex(),
    }


def echoes(key: Hidden, wire: str) -> Unseen:
    """Replies that hold the key, by name."""
    made = Unseen()
    for form, said in said_of(key).items():
        for status in (400, 401, 500):
            body = error_body(wire, "invalid", f"no such key: {said} (see the docs)")
            made[f"{status}, {form}"] = http(status, body)
    plain = key.reveal()
    html = f"<html><title>Sign in</title>{plain}</html>".encode()
    made["page"] = http(200, html, {"content-type": "text/html"})
    made["page, 502"] = http(502, html, {"content-type": "text/html"})
    made["cut"] = http(200, f'{{"error": "your key {plain} is'.encode())
    made["other schema"] = http(200, json.dumps({"request": {"headers": plain}}).encode())
    made["error in 200"] = http(200, json.dumps({"error": {"message": plain}}).encode())
    made["error list"] = http(400, json.dumps([{"error": {"message": plain}}]).encode())
    made["code"] = http(400, error_body(wire, plain, "no"))
    made["late in the text"] = http(400, error_body(wire, "x", f"{'.' * 280}{plain}"))
    made["behind blanks"] = http(400, f"{' ' * 3_580}{plain}".encode())
    return made


def echoes_in_headers(key: Hidden, wire: str) -> Unseen:
    """The same, in headers of the reply. A client may log those; that is its own business."""
    plain = key.reveal()
    made = Unseen()
    made["content type"] = http(200, b"x", {"content-type": f"text/{plain}"})
    made["encoding"] = http(200, b"x", {"content-encoding": plain})
    made["wait"] = http(429, error_body(wire, "slow", "slow"), {"retry-after": plain})
    made["redirect"] = http(307, b"", {"location": f"http://{plain}@127.0.0.1:9/{plain}"})
    made["redirect to it"] = http(307, b"", {"location": f"http://{plain}/v1"})
    return made


BEFORE_A_REPLY = ("429_seconds:0.05", "429_date:1")
"""Waits that are shorter than the stub's own."""
STOPPING = {"500", "hang", "reset_mid_body", "prose", "length", "wrong_schema", "400, whole"}
"""Faults that stop a run with on_error="raise"; the others take the same way."""
FATAL = {"401", "402", "403", "404", "429_quota", "429_huge"}
NOT_OURS = {"huge", "gzip_bomb"}
"""Through a client, the size of a reply is the client's own business."""


def faults_of(way: str) -> list[str]:
    left_out = {"429_seconds", "429_date", *(NOT_OURS if way == "client" else ())}
    return [*(f for f in FAULTS if f not in left_out), *BEFORE_A_REPLY]


def pipeline_of(model: Any, names: list[str], **settings: Any) -> dfn.Pipeline:
    step = dfn.LLMStep(
        f"{MARK} <{{fault}}>",
        output_columns=["a", "b"],
        model=model,
        retry_delay=0.001,
        max_retries=0,
        **settings,
    )
    return dfn.Source.list([{"fault": name} for name in names]) >> step.as_step(MARK)


def one_request(name: str) -> Request:
    return Request(({"role": "user", "content": f"{MARK} <{name}>"},))


def answer(number: int, body: dict[str, Any]) -> str:
    return json.dumps({"a": f"{MARK} {number}", "b": "snow"})


def asked_for(body: dict[str, Any]) -> str:
    """The name of the fault, from the prompt in any dialect."""
    return json.dumps(body).split(f"{MARK} <", 1)[1].split(">", 1)[0]


@pytest.mark.parametrize("way", ["own", "client"])
@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_g14_key_is_in_the_header_of_the_request_and_nowhere_else(
    name, way, tmp_path, monkeypatch, logged, capfd
):
    monkeypatch.chdir(tmp_path)
    provider = PROVIDERS[name]
    key, second = Hidden(""), Hidden("")
    search = Search(key, second)
    options.max_reply_bytes = 1_000_000
    echoed = echoes(key, provider.wire)
    if way == "own":
        echoed.update(echoes_in_headers(key, provider.wire))
        more = echoes(second, provider.wire)
        echoed.update({f"second, {n}": reply for n, reply in more.items()})
    names = faults_of(way)
    assert len(names) >= 48

    def choose(number: int, body: dict[str, Any]) -> str | bytes | None:
        name = asked_for(body)
        return None if name == "none" else echoed.get(name, name)

    with StubServer(faults=choose, answer=answer) as stub:
        client = None
        if way == "client":
            client = provider.client(stub.url if provider.has_v1 else stub.root, key)
        headers = SecretHeaders({"X-Gateway": second.reveal()}) if client is None else None
        build = partial(provider.build, stub, client, key, headers=headers, timeout_s=0.4)
        # One run with all that does not stop it.
        model = build(model_id="m")
        going = [n for n in names if n not in FATAL | set(BEFORE_A_REPLY)]
        going += [n for n in echoed if "401" not in n]
        pipeline = (
            pipeline_of(model, [*going, "none"])
            >> dfn.Sink.jsonl("out.jsonl.gz")
            >> dfn.Sink.csv("out.csv")
            >> dfn.Sink.parquet("out.parquet")
        )
        told: list[Any] = []
        result = pipeline.run(
            checkpoint_dir="ck", max_concurrent=8, on_event=told.append, show_progress=True
        )
        assert len(result.errors) >= 40 and len(result) >= 1
        see_run(search, pipeline, result, model, tmp_path)
        search.see("events", repr(told))
        # One call each, and for faults one run each, that end in the error.
        for i, fault in enumerate([*names, *echoed]):
            model = build(model_id=f"m{i}")
            asks: list[Callable[[], Any]] = [
                lambda: spawn(model.complete(one_request(fault))).result(20)  # noqa: B023
            ]
            if fault in FATAL or fault in STOPPING:
                asks.append(pipeline_of(model, [fault], on_error="raise").run)
            for ask in asks:
                see_failure(search, ask)
        sent = stub.requests
        if client is not None:
            close_client(client)
    assert len(sent) >= len(going) + len(names) + len(echoed)
    in_headers = Counter(
        name for request in sent for name, value in request.headers.items() if key.reveal() in value
    )
    assert set(in_headers) <= {"authorization", "x-api-key"}
    assert in_headers.total() >= len(going) + len(names) + len(echoed)
    for request in sent:
        search.see("path and body", request.path, json.dumps(request.body))
    close_memos()
    search.see_files(tmp_path)
    search.see("log", *logged)
    search.see("output", *capfd.readouterr())
    assert Counter(search.hits) == {}
    files = {"file .db", "file .html", "file .jsonl", "file .csv", "file .parquet", "file .gz"}
    expected = {"path and body", "log", "output", "events", "traceback of a failure", *files}
    expected |= {"text/html of the trace", "vars of the result", "pickle of one of the errors"}
    assert expected <= search.marked, "the search looks where texts are"


def see_failure(search: Search, ask: Callable[[], Any]) -> None:
    try:
        ask()
    except dfn.LLMError as exc:
        search.see_error("a failure", exc)
        search.see_object("a stopped result", exc.result)


def see_run(
    search: Search, pipeline: dfn.Pipeline, result: dfn.Result, model: dfn.Model, folder: Path
) -> None:
    """All displays and exports of a run."""
    things: dict[str, Any] = {
        "the model": model,
        "the pipeline": pipeline,
        "the result": result,
        "the ledger": result.ledger,
        "the funnel": result.funnel,
        "the errors": result.errors,
        "the estimate": pipeline.estimate(),
        "the preview": pipeline.preview(),
        "the comparison": dfn.diff(result, pipeline),
        "the memo": dfn.memo,
        "what the memo has": dfn.memo.info(),
        "the trace": result.trace(0),
        "the reason": result.why(0, "a"),
        "the run": pipeline.start(),
        "what was dropped": result.dropped(MARK),
    }
    for name, thing in things.items():
        search.see_object(name, thing)
    for error in result.errors:
        search.see_object("one of the errors", error)
        search.see("one of the errors", json.dumps(error.to_dict(), default=str))
    search.see("calls", result.calls.to_json(date_format="iso"), repr(result.call_rows))
    search.see("records", json.dumps(result.to_dict(), default=str), repr(list(result)))
    with contextlib.suppress(dfn.DatafastError):
        things["the run"].result(30)
    result.report(folder / "report.html")
    open_memo().export(folder / "calls.jsonl")
