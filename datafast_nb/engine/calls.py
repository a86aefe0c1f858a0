"""One draw to be asked for: the question, its retries, and what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datafast_nb.engine.gates import Pass
from datafast_nb.errors import LLMError
from datafast_nb.logs import logger, tell
from datafast_nb.models import ladder
from datafast_nb.models.base import Message, Model, Request, Response
from datafast_nb.models.tally import note_call
from datafast_nb.models.verdicts import CORRECTABLE, REASKABLE, Unusable, judge
from datafast_nb.store.memo import Memo, Reply
from datafast_nb.store.rows import NEVER_DATA, WithheldText

MAX_ECHO = 8_000
"""Characters of an unusable reply that are sent back with the correction."""


@dataclass(slots=True, eq=False)
class Call:
    """One draw to be asked for, and what came of it."""

    key: str
    label: str
    model: Model
    request: Request
    parse: Callable[[str], dict[str, Any]]
    max_retries: int = 3
    retry_delay_s: float = 1.0
    reasks_left: int = 1
    """Further questions after an unusable answer."""
    reasks_all: bool = False
    """Ask again after refusals and cut answers too."""
    prior: Reply | None = None
    """The unusable reply that an earlier run got for this draw."""
    planned: float = 0.0
    """Unix time at which the run came to this call; ascending in input order."""
    own: bool = False
    """Store the reply under this label also where it is a link to another draw."""
    depth: int = 0
    """LLM steps before this one that ask at the same time; of calls that wait, the deepest is next."""
    stops_run: bool = False
    """Its failure ends the run."""
    run: str = ""
    """Name of the run that asks, for the log."""
    step: str = ""
    """Name of the step that asks."""
    record: int | None = None
    """Index of the record among the step's inputs, for the log."""
    owner: Any = None
    """Of the submitter; not looked at here."""
    on_disk: asyncio.Future[None] | None = None
    values: dict[str, Any] | None = None
    """Output values; None: failed."""
    error: LLMError | None = None
    """Why it failed; kind "not_asked" where the run stopped before."""
    reply: Reply | None = None
    """The last reply."""
    attempts: int = 0
    n_replies: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    """List price of all replies of this call."""
    wasted_usd: float = 0.0
    leave: Pass | None = None
    """Of the attempt under way: leave to send it, owed to the gate."""
    reserved: float | None = None
    """Of the attempt under way: US dollars set aside."""
    sent_at: float = 0.0
    """Loop time of the attempt under way."""
    is_late: bool = False
    """The attempt under way has passed its deadline and was cancelled."""
    is_given_up: bool = False
    """It did not end then either: the call was handed back without it."""

    def may_reask(self, bad: Unusable) -> bool:
        """Whether an unusable answer is asked for again, within the call's one budget of attempts."""
        return (
            self.reasks_left > 0
            and self.attempts <= max(1, self.max_retries)
            and (self.reasks_all or bad.verdict in REASKABLE)
        )

    def judge(self, response: Response, latency_s: float) -> tuple[Reply, Unusable | None]:
        """The reply to be kept, and why it cannot be used, if so. Fills `values` or `error`."""
        self.values, bad = judge(response, self.request, self.parse)
        usage = response.usage
        text = response.text
        if bad is not None and bad.verdict in NEVER_DATA:
            text = WithheldText.of(text, bad.verdict, bad.reason)
        reply = Reply(
            text=text,
            verdict="usable" if bad is None else bad.verdict,
            reason="" if bad is None else bad.reason,
            finish=response.finish,
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            cached_input_tokens=usage.cached_input_tokens if usage else 0,
            model=response.model,
            created=self.planned,
            latency_s=round(latency_s, 4),
            attempts=self.attempts,
        )
        self.reply = reply
        self.n_replies += 1
        if bad is not None:
            self.error = unusable_error(self.model, bad)
        return reply, bad

    def note(self, usd: float, error: LLMError | None = None, bad: Unusable | None = None) -> None:
        """Count and log an attempt that ended: with an error, or with `reply`, which may be bad."""
        note_call(self.model, usd, failed=error is not None)
        if not logger.isEnabledFor(logging.DEBUG):
            return
        reply = self.reply if error is None else None
        verdict = error.kind if error is not None else "usable" if bad is None else bad.verdict
        tell(
            logging.DEBUG,
            f"step '{self.step}', record {self.record}, attempt {self.attempts}: {verdict}",
            event="attempt",
            run=self.run,
            step=self.step,
            record=self.record,
            model=self.model.name,
            provider=self.model.provider,
            attempt=self.attempts,
            verdict=verdict,
            usd=usd,
            **_figures(reply, error, bad),
        )


def _figures(reply: Reply | None, error: LLMError | None, bad: Unusable | None) -> dict[str, Any]:
    """Fields of the log that a reply or an error has."""
    if error is not None:
        return {
            "error": str(error),
            "status": error.status,
            "retry_after_s": error.retry_after_s,
            "maybe_billed": error.maybe_billed or None,
        }
    if reply is None:
        return {}
    return {
        "error": None if bad is None else bad.reason,
        "finish": reply.finish,
        "input_tokens": reply.input_tokens,
        "output_tokens": reply.output_tokens,
        "latency_s": reply.latency_s,
    }


def know_ways(memo: Memo, calls: Sequence[Call], known: set[int]) -> None:
    """Take up what earlier processes noted about sending schemas to the models of some calls.

    `known` holds the models that this was done for.
    """
    for call in calls:
        schema, model = call.request.schema, call.model
        if schema is not None and id(model) not in known:
            known.add(id(model))
            if model.schema_way(schema) is not None:
                ladder.load(memo, model)


def unusable_error(model: Model, bad: Unusable) -> LLMError:
    """The error that an unusable reply stands for, with what to do as a note."""
    error = LLMError(f"{model.name}: {bad.reason}", kind=bad.verdict, model=model.name)
    if bad.advice not in bad.reason:
        error.add_note(f"What to do: {bad.advice}")
    return error


def _start(text: str) -> str:
    return text if len(text) <= MAX_ECHO else f"{text[:MAX_ECHO]} […]"


def reask(request: Request, bad: Reply) -> Request:
    """The question after an unusable reply: with the reply and what is wrong with it.

    A refused, cut or empty reply teaches the model nothing; the same question is asked again.
    Of a runaway reply the start is enough, and the whole might not fit into the context.
    """
    if bad.verdict not in CORRECTABLE or not bad.text.strip():
        return request
    correction: list[Message] = [
        {"role": "assistant", "content": _start(bad.text)},
        {
            "role": "user",
            "content": f"That answer cannot be used: {bad.reason}. Give the answer again, "
            "complete and in the required form, and nothing else.",
        },
    ]
    return Request(
        messages=(*request.messages, *correction),
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        top_p=request.top_p,
        schema=request.schema,
        extra=request.extra,
    )
