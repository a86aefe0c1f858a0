"""The key of a paid answer: a hash of the logical request, and what belongs in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from datafast_nb.errors import MemoError
from datafast_nb.records import canonical_json

if TYPE_CHECKING:
    from datafast_nb.models.base import Message

KEY_VERSION = 1
"""Raised when the same request would get another key; older answers are then asked again."""

_WIRE = "reaches the model and changes its answer"
_WHO = "answers of another model are other answers"
_DELIVERY = "decides whether and when an answer arrives, not which"
_READING = "applied to the stored raw reply, so that a mended reader rescues it for nothing"
_DRAW = "chooses among the draws under one key"
_RENDERED = "is in the key through the messages that it renders"
_MONEY = "counts money; the answer is the same"

KEY_FIELDS: Mapping[str, tuple[bool, str]] = MappingProxyType(
    {
        "messages": (True, _WIRE),
        "temperature": (True, _WIRE),
        "max_tokens": (True, _WIRE),
        "top_p": (True, _WIRE),
        "schema": (True, _WIRE),
        "extra": (True, _WIRE),
        "provider": (True, _WHO),
        "endpoint": (True, _WHO),
        "cache_id": (True, "stands for the endpoint where addresses change between runs"),
        "model": (True, _WHO),
        "digest": (True, "an Ollama tag can be pulled anew; its digest tells the weights apart"),
        "weights": (True, "a local file is its content, not its name"),
        "num_ctx": (True, "a smaller context cuts the prompt"),
        "host": (True, "is in the key as 'endpoint'"),
        "api": (False, "another page of the same model; an answer got by one serves the other"),
        "think": (True, _WIRE),
        "options": (True, _WIRE),
        "key_version": (True, "a change of this table starts over"),
        "llm": (True, "another word for 'model'"),
        "model_id": (True, "is in the key as 'model'"),
        "base_url": (True, "is in the key as 'endpoint'"),
        "path": (True, "a local file is in the key through its hash"),
        "recording": (True, "answers for the model that it names, under that model's key"),
        "organization": (False, "says who pays"),
        "headers": (False, "may hold secrets; `cache_id` tells endpoints apart"),
        "structured": (False, "how the schema is sent; the schema itself is in the key"),
        "n_ctx": (False, "a prompt that does not fit is refused, never cut"),
        "threads": (False, _DELIVERY),
        "max_in_flight": (False, _DELIVERY),
        "latency_s": (False, _DELIVERY),
        "target": (True, "the user's own model; its name, provider and `cache_id` are in the key"),
        "answers": (False, "of a FakeModel; its name or `cache_id` tells two apart"),
        "language": (False, _RENDERED),
        "overwrite": (False, "decides which column is written, not what is answered"),
        "api_key": (False, "says who pays; kept out of every file"),
        "client": (False, "another way to the same endpoint; `cache_id` tells endpoints apart"),
        "price": (False, _MONEY),
        "budget": (False, _MONEY),
        "max_calls": (False, _MONEY),
        "timeout_s": (False, _DELIVERY),
        "max_retries": (False, _DELIVERY),
        "retry_delay": (False, _DELIVERY),
        "requests_per_minute": (False, _DELIVERY),
        "tokens_per_minute": (False, _DELIVERY),
        "max_concurrent": (False, _DELIVERY),
        "batch_size": (False, _DELIVERY),
        "parallel": (False, _DELIVERY),
        "keep_alive": (False, _DELIVERY),
        "max_reply_bytes": (False, _DELIVERY),
        "on_error": (False, "decides what becomes of the record, not of the answer"),
        "skip_if": (False, "decides whether to ask, not what is answered"),
        "resample": (False, _DRAW),
        "num_outputs": (False, _DRAW),
        "row_id": (False, _DRAW),
        "rank": (False, _DRAW),
        "name": (False, "renaming a step must not cost money"),
        "structured_rung": (False, "how the schema is sent; the schema itself is in the key"),
        "parse_mode": (False, _READING),
        "output_columns": (False, "in the key as 'schema' where structured, else " + _READING),
        "score_range": (False, _READING),
        "prompt": (False, _RENDERED),
        "system_prompt": (False, _RENDERED),
        "examples": (False, _RENDERED),
        "input_columns": (False, _RENDERED),
        "record": (False, "a column that no prompt shows cannot change the answer"),
        "forward_columns": (False, "chooses what is kept beside the answer"),
        "exclude_columns": (False, "chooses what is kept beside the answer"),
    }
)
"""Setting → (is it part of the key, why)."""


class RequestKeys:
    """Makes the keys of all requests of one step with one model and one set of parameters.

    Parameters
    ----------
    identity
        What `Model.identity()` gives; all of it is part of the key.
    temperature, max_tokens, top_p, schema, extra
        As in `models.base.Request`.

    Raises
    ------
    MemoError
        If `schema` or `extra` hold what cannot be written as JSON.
    """

    __slots__ = ("_start",)

    def __init__(
        self,
        identity: Mapping[str, str],
        *,
        temperature: float | None,
        max_tokens: int | None,
        top_p: float | None,
        schema: Mapping[str, Any] | None,
        extra: Mapping[str, Any],
    ) -> None:
        static = {
            "key_version": KEY_VERSION,
            "identity": dict(identity),
            # 0 and 0.0 ask the same.
            "temperature": None if temperature is None else float(temperature),
            "max_tokens": max_tokens,
            "top_p": None if top_p is None else float(top_p),
            "schema": None if schema is None else dict(schema),
            "extra": dict(extra),
        }
        try:
            body = canonical_json(static)
        except (TypeError, ValueError) as exc:
            raise MemoError(
                f"model {identity.get('model', '?')!r}: the request's schema or extra cannot be "
                f"written as JSON ({exc}); use text, numbers, booleans, None, lists and dicts"
            ) from exc
        self._start = sha256(b"[" + body + b",")

    def key(self, messages: Sequence[Message]) -> str:
        """64 hex digits; the same in every process, whatever the order of dict keys."""
        # This is the hot path: the static part is hashed once, and only the messages here.
        try:
            body = orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            body = canonical_json(messages)  # lone surrogates
        digest = self._start.copy()
        digest.update(body)
        digest.update(b"]")
        return digest.hexdigest()
