"""A server that speaks the APIs of OpenAI, Anthropic and Ollama, with scripted latency and faults.

In a test, on a thread: ``with StubServer(faults={2: "429"}) as stub: … stub.url``.
As a process: ``python tests/stub_server.py --port 0 --latency-ms 100`` prints its port;
GET /stats tells what it saw, POST /reset forgets it.

HTTP is written by hand on `asyncio.Protocol`: resets, drips and false lengths are the point,
and thousands of requests per second leave the machine to the code that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import email.utils
import gzip
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import orjson
from stub_wires import EMPTY, Say, error_body, sayer, schema_of, turns_of, wire_of

from datafast_nb.models.fake import example_value

Faults = str | Mapping[int, str] | Callable[[int, dict[str, Any]], str | bytes | None] | None
"""Fault for all requests, by number from 1, or by a function of number and body; bytes: the reply."""

_REASONS = {200: "OK", 307: "Temporary Redirect", 429: "Too Many Requests"}
_STATUS_ERRORS = {
    "400": ("invalid_request_error", "this request is not valid"),
    "401": ("invalid_api_key", "Incorrect API key provided: {key}"),
    "402": ("insufficient_credits", "no credit left"),
    "403": ("permission_denied", "not allowed"),
    "404": ("model_not_found", "The model does not exist"),
    "408": ("timeout", "timed out"),
    "413": ("too_large", "request too large"),
    "422": ("unprocessable", "cannot be processed"),
    "429": ("rate_limit_exceeded", "slow down"),
    "500": ("server_error", "internal error"),
    "502": ("bad_gateway", "bad gateway"),
    "503": ("unavailable", "unavailable"),
    "504": ("gateway_timeout", "gateway timeout"),
    "529": ("overloaded_error", "overloaded"),
}


@dataclass
class Received:
    """One request as it arrived."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at_s: float
    """Monotonic clock."""


class StubServer:
    """Counts, records and answers requests; `url` is the base address for an adapter."""

    def __init__(
        self,
        *,
        faults: Faults = None,
        latency_s: float = 0.0,
        answer: Callable[[int, dict[str, Any]], str] | None = None,
        port: int = 0,
        record: bool = True,
        redirect_to: str = "http://127.0.0.1:9/v1/chat/completions",
        pages: Mapping[str, tuple[int, Any]] | None = None,
    ) -> None:
        self.faults = faults
        self.latency_s = latency_s
        self.answer = answer
        self.port = port
        self.record = record
        self.redirect_to = redirect_to
        self.pages = dict(pages or {})
        """Path → status and JSON, for what is asked besides answers."""
        self.requests: list[Received] = []
        self.n_requests = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [r.body for r in self.requests]

    def __enter__(self) -> StubServer:
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="stub-server", daemon=True
        )
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the stub server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self, ready: threading.Event) -> None:
        self._loop = loop = asyncio.new_event_loop()
        server = loop.run_until_complete(self.listen(loop))
        ready.set()
        loop.run_forever()
        server.close()
        for connection in list(self._connections):
            connection.abort()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    async def listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        server = await loop.create_server(
            lambda: _Connection(self, loop), "127.0.0.1", self.port, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        return server

    def fault(self, number: int, body: dict[str, Any]) -> str | bytes | None:
        if self.faults is None or isinstance(self.faults, str):
            return self.faults
        if isinstance(self.faults, Mapping):
            return self.faults.get(number)
        return self.faults(number, body)

    def reset(self) -> None:
        self.requests.clear()
        self.n_requests = self.max_in_flight = 0


class _Connection(asyncio.Protocol):
    def __init__(self, server: StubServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.server._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server._connections.discard(self)

    def abort(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.buffer[:1].isalpha():  # a TLS greeting
            self.write(http(400, b"this is plain HTTP"))
            self.transport.close()
            return
        while self.buffer:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].decode("latin-1").split("\r\n")
            headers = {}
            for line in head[1:]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            stop = end + 4 + int(headers.get("content-length", 0))
            if len(self.buffer) < stop:
                return
            payload, self.buffer = self.buffer[end + 4 : stop], self.buffer[stop:]
            method, path, _ = head[0].split(" ", 2)
            self.handle(method, path, headers, payload)

    def handle(self, method: str, path: str, headers: dict[str, str], payload: bytes) -> None:
        server = self.server
        if path == "/stats":
            stats = {"requests": server.n_requests, "max_in_flight": server.max_in_flight}
            self.write(http(200, orjson.dumps(stats)))
            return
        if path == "/reset":
            server.reset()
            self.write(http(200, b"{}"))
            return
        server.n_requests += 1
        number = server.n_requests
        body = orjson.loads(payload) if payload else {}
        if server.record:
            now = time.monotonic()
            server.requests.append(Received(number, method, path, headers, body, now))
        server.in_flight += 1
        server.max_in_flight = max(server.max_in_flight, server.in_flight)
        if server.latency_s > 0:
            self.loop.call_later(server.latency_s, self.reply, number, path, headers, body)
        else:
            self.reply(number, path, headers, body)

    def reply(self, number: int, path: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        server = self.server
        server.in_flight -= 1
        if path in server.pages:
            status, value = server.pages[path]
            self.write(http(status, orjson.dumps(value)))
            return
        wire = wire_of(path)
        if not wire:
            self.write(http(404, b'{"error": {"message": "no such page"}}'))
            return
        fault = server.fault(number, body)
        if isinstance(fault, bytes):
            self.write(fault)
            return
        if fault is not None:
            self.fail(fault, number, headers, body, wire)
            return
        text = good_text(number, body) if server.answer is None else server.answer(number, body)
        self.write(http(200, sayer(wire, body)(text)))

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def fail(
        self, fault: str, number: int, headers: dict[str, str], body: dict[str, Any], wire: str
    ) -> None:
        if fault == "hang":
            return
        if fault in ("reset_before", "close_before"):
            self.abort() if fault == "reset_before" else self.transport.close()
            return
        text = good_text(number, body)
        whole = http(200, sayer(wire, body)(text))
        if fault in ("reset_mid_body", "close_mid_body"):
            self.write(whole[:-20])
            end = self.abort if fault == "reset_mid_body" else self.transport.close
            self.loop.call_later(0.02, end)
        elif fault == "slow_drip":
            self.drip(whole, len(whole) - 100)
        else:
            key = headers.get("authorization", headers.get("x-api-key", ""))
            redirect_to = self.server.redirect_to
            self.write(fault_reply(fault, text, body, key, redirect_to, wire))

    def drip(self, whole: bytes, position: int) -> None:
        """The last 100 bytes, one every 50 ms: 5 s in all, with never a long silence."""
        if position >= len(whole) or self.transport.is_closing():
            return
        start = 0 if position == len(whole) - 100 else position
        self.write(whole[start : position + 1])
        self.loop.call_later(0.05, self.drip, whole, position + 1)


def http(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    lines = {"content-type": "application/json", "content-length": str(len(body))}
    lines.update(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n{head}\r\n".encode() + body


def good_text(number: int, body: dict[str, Any]) -> str:
    """An answer of the prompt's own and of this request's number; JSON where a schema came."""
    messages = turns_of(body) or [{}]
    digest = blake2b(orjson.dumps(messages), digest_size=6).digest()
    text = f"echo:{digest.hex()}:{number}"
    wanted = schema_of(body)
    if wanted is None:
        return text
    seed = int.from_bytes(digest, "big") + number
    return orjson.dumps(example_value(wanted, seed, text)).decode()


def fault_reply(
    fault: str,
    text: str,
    body: dict[str, Any],
    key: str,
    redirect_to: str,
    wire: str = "chat",
) -> bytes:
    """Bytes of the reply for every fault that comes as one whole reply.

    "refuses:400:words" is that status with those words.
    """
    if fault.startswith("429"):
        return rate_limited(fault, wire)
    if fault in _STATUS_ERRORS:
        code, message = _STATUS_ERRORS[fault]
        said = message.format(key=key.removeprefix("Bearer "))
        return http(int(fault), error_body(wire, code, said))
    if fault.startswith("refuses:"):
        _, status, said = fault.split(":", 2)
        return http(int(status), error_body(wire, "invalid_request_error", said))
    say = sayer(wire, body)
    if fault == "empty_choices":
        return http(200, EMPTY[wire])
    if fault in _BODIES:
        return _BODIES[fault](text, say)
    if fault == "redirect_other":
        return http(307, b"", {"location": redirect_to})
    if fault in _TEXTS:
        return http(200, say(_TEXTS[fault](text)))
    raise ValueError(f"unknown fault {fault!r}")


def rate_limited(fault: str, wire: str) -> bytes:
    """429, with the wait in one of its forms; "429_seconds:5" says how long."""
    name, _, wait = fault.partition(":")
    headers: dict[str, str] = {}
    code, message = _STATUS_ERRORS["429"]
    if name == "429_seconds":
        headers["retry-after"] = wait or "1"
    elif name == "429_ms":
        headers["retry-after-ms"] = wait or "50"
    elif name == "429_huge":
        headers["retry-after"] = "86400"
    elif name == "429_date":
        # A server whose clock is an hour behind: the date counts from its own `Date`.
        now = time.time() - 3600
        headers["date"] = email.utils.formatdate(now, usegmt=True)
        headers["retry-after"] = email.utils.formatdate(now + float(wait or 2), usegmt=True)
    elif name == "429_quota":
        code, message = "insufficient_quota", "You exceeded your current quota"
    elif name != "429":
        raise ValueError(f"unknown fault {fault!r}")
    return http(429, error_body(wire, code, message), headers)


@cache
def _bomb() -> bytes:
    return gzip.compress(b" " * 200_000_000, compresslevel=1)


def _gzip_bomb(text: str, say: Say) -> bytes:
    return http(200, _bomb(), {"content-encoding": "gzip"})


def _gzipped(text: str, say: Say) -> bytes:
    return http(200, gzip.compress(say(text)), {"content-encoding": "gzip"})


def _chunked(text: str, say: Say) -> bytes:
    whole = say(text)
    parts = [whole[i : i + 50] for i in range(0, len(whole), 50)]
    chunks = b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in parts)
    head = "content-type: application/json\r\ntransfer-encoding: chunked\r\n"
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + chunks + b"0\r\n\r\n"


_HTML = b"<html><title>Please sign in</title></html>"
# Faults of the body: text, and how the dialect says it → HTTP reply.
_BODIES: dict[str, Callable[[str, Say], bytes]] = {
    "truncated_json": lambda t, say: http(200, say(t)[:-30]),
    "html_200": lambda t, say: http(200, _HTML, {"content-type": "text/html"}),
    "empty_body": lambda t, say: http(200, b""),
    "wrong_schema": lambda t, say: http(200, b'{"result": "something else"}'),
    "error_in_200": lambda t, say: http(200, b'{"error": {"code": 502, "message": "behind"}}'),
    "null_content": lambda t, say: http(200, say(None)),
    "empty_content": lambda t, say: http(200, say("")),
    "refusal": lambda t, say: http(200, say(None, refusal="I cannot help with that.")),
    "content_filter": lambda t, say: http(200, say("", "content_filter")),
    "length": lambda t, say: http(200, say(t[: len(t) // 2], "length")),
    "huge": lambda t, say: http(200, say("x" * 10_000_000)),
    "gzip_bomb": _gzip_bomb,
    "gzip": _gzipped,
    "chunked": _chunked,
    "invalid_utf8": lambda t, say: http(200, say("@@").replace(b"@@", b"\xff\xfe")),
    "lone_surrogate": lambda t, say: http(200, say("a@@b").replace(b"@@", b"\\ud800")),
}


def _edited(text: str, edit: Callable[[dict[str, Any]], Any]) -> str:
    value = orjson.loads(text) if text.startswith("{") else {"text": text}
    made = edit(value)
    return orjson.dumps(value if made is None else made).decode()


def _doubled(text: str) -> str:
    whole = _edited(text, lambda v: None)
    first = whole[1:].split(":", 1)[0]
    return f'{{{first}: "another", {whole[1:]}'


def _with_nan(text: str) -> str:
    value = orjson.loads(text) if text.startswith("{") else {"text": text}
    first = next(iter(value))
    return _edited(text, lambda v: v.update({first: "@@"})).replace('"@@"', "NaN")


# Faults of the answer inside a sound reply: text → text.
_TEXTS: dict[str, Callable[[str], str]] = {
    "prose": lambda t: "Sure! I would be happy to help you with that.",
    "fenced": lambda t: f"```json\n{_edited(t, lambda v: None)}\n```",
    "trailing_comma": lambda t: f"{_edited(t, lambda v: None)[:-1]},}}",
    "dup_keys": _doubled,
    "nan": _with_nan,
    "missing_key": lambda t: _edited(t, lambda v: dict(list(v.items())[1:])),
    "extra_key": lambda t: _edited(t, lambda v: v.update(_model="x", id=1, __class__="y")),
    "wrong_type": lambda t: _edited(t, lambda v: {k: [[]] for k in v}),
    "array": lambda t: f"[{_edited(t, lambda v: None)}]",
    "deep_nest": lambda t: "[" * 50_000,
    "control_chars": lambda t: f"{t}\x00\x1b[31m",
}

FAULTS: tuple[str, ...] = (
    *_STATUS_ERRORS,
    *("429_seconds", "429_date", "429_ms", "429_huge", "429_quota"),
    *("hang", "slow_drip", "reset_before", "close_before", "reset_mid_body", "close_mid_body"),
    *_BODIES,
    "empty_choices",
    *_TEXTS,
    "redirect_other",
)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--fault", choices=FAULTS, help="answer every request with this fault")
    options = parser.parse_args()
    stub = StubServer(
        faults=options.fault, latency_s=options.latency_ms / 1000, port=options.port, record=False
    )

    async def serve() -> None:
        server = await stub.listen(asyncio.get_running_loop())
        print(stub.port, flush=True)
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    _main()
