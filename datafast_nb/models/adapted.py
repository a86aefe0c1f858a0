"""A user's own model: any object with `generate` (or `complete`) and a name."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import json
import threading
from collections.abc import Callable
from typing import Any

from datafast_nb.errors import LLMError
from datafast_nb.models.base import Model, Request, Response


class AdaptedModel(Model):
    """Wraps an object with `generate(prompt, system_prompt, temperature, max_tokens, …)`.

    `generate` runs on a thread per call, so that it may block. Its answers are memoized under its
    `provider` and `name`; give it a `cache_id` where these do not tell it from others. `timeout_s`
    is the deadline of one attempt (default: `options.timeout_s`): the engine stops waiting then;
    a thread that is still at work ends by itself.
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        self.name = str(getattr(target, "name", type(target).__name__))
        self.provider = str(getattr(target, "provider", "custom"))
        self.endpoint = str(getattr(target, "cache_id", "") or "")
        self.parallel = getattr(target, "parallel", None)
        self.price = getattr(target, "price", None)
        timeout_s = getattr(target, "timeout_s", None)
        is_number = isinstance(timeout_s, (int, float)) and timeout_s > 0
        self.timeout_s = timeout_s if is_number else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdaptedModel) and other.target is self.target

    def __hash__(self) -> int:
        return hash(id(self.target))

    async def complete(self, request: Request) -> Response:
        """Ask the wrapped model once; any error of its own is an LLMError of kind "error"."""
        if hasattr(self.target, "complete"):
            reply = await self.target.complete(request)
        else:
            reply = await _on_own_thread(lambda: self._generate(request), name=self.name)
        if isinstance(reply, Response):
            return reply
        if isinstance(reply, str):
            return Response(reply)
        if isinstance(reply, dict):
            return Response(json.dumps(reply, ensure_ascii=False, default=str))
        if hasattr(reply, "model_dump_json"):
            return Response(reply.model_dump_json())
        raise LLMError(
            f"{self.name}: generate() returned {type(reply).__name__}; return text or a dict",
            kind="bad_request",
            model=self.name,
        )

    def _generate(self, request: Request) -> Any:
        system = "\n".join(m["content"] for m in request.messages if m["role"] == "system")
        turns = [m for m in request.messages if m["role"] != "system"]
        if len(turns) == 1:
            prompt = turns[0]["content"]
        else:
            prompt = "\n\n".join(f"{m['role']}: {m['content']}" for m in turns)
        given: dict[str, Any] = {
            "system_prompt": system or None,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "schema": request.schema,
        }
        accepted = inspect.signature(self.target.generate).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        kwargs = {k: v for k, v in given.items() if k in accepted or (takes_all and k != "schema")}
        if request.schema is not None and "schema" not in kwargs:
            keys = ", ".join(request.schema.get("properties", {}))
            prompt += f"\n\nAnswer with one JSON object with the keys: {keys}."
        try:
            return self.target.generate(prompt, **kwargs)
        except LLMError:
            raise
        except BaseException as exc:  # sys.exit() too: nobody is there to exit for
            raise LLMError(
                f"{self.name}: generate() raised {type(exc).__name__}: {exc}",
                kind="error",
                model=self.name,
            ) from exc


async def _on_own_thread(work: Callable[[], Any], *, name: str) -> Any:
    """What `work` returns or raises, run on a new daemon thread.

    Not `asyncio.to_thread`: its pool bounds the calls in flight by the number of processors,
    where the engine's limits should, and the interpreter waits for its threads at exit.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():  # cancelled meanwhile
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(work)
        except BaseException as exc:
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=f"datafast_nb-{name}", daemon=True).start()
    return await done
