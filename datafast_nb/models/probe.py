"""Can this model be used, and how fast is it? One look at the server's list, one tiny question."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import Block, Document, Fact, Facts, Head, Line, Mark, Paragraph
from datafast_nb.errors import LLMError
from datafast_nb.models.base import Message, Request, Usage
from datafast_nb.models.pricing import listed_context, price_of
from datafast_nb.models.tally import note_call

if TYPE_CHECKING:
    from datafast_nb.models.base import Model
    from datafast_nb.models.listing import Listing

QUESTION: tuple[Message, ...] = (
    {"role": "user", "content": "Count from 1 to 20 in digits, separated by spaces."},
)
MAX_ANSWER_TOKENS = 64
MAX_QUESTION_TOKENS = 80
"""A bound: the question has 50 bytes, and chat templates put words around it."""


@dataclass(frozen=True, repr=False)
class Probe(Shown):
    """What a probe found out. None: not known."""

    model: str
    provider: str
    reachable: bool | None
    """The server answered."""
    key_accepted: bool | None
    """False: the key is missing or refused. None: not known, or none is needed."""
    known: bool | None
    """The server has the model."""
    context: int | None
    """Tokens of prompt and answer together."""
    cost_usd: float
    """The most that the question costs at list price; NaN where the price is unknown."""
    asked: bool = False
    seconds: float | None = None
    """From the question to the end of the answer."""
    tokens_per_s: float | None = None
    """Output tokens by seconds, connecting and reading the question included."""
    answer: str | None = None
    usage: Usage | None = None
    problem: str = ""
    """What went wrong and what to do; "" where nothing did."""

    @property
    def ok(self) -> bool:
        """Nothing speaks against using the model."""
        return not self.problem and self.known is not False

    def view(self) -> Document:
        """Plain data for display."""
        state: Line = (Mark("failed"), " not ready") if not self.ok else ("ready",)
        if self.ok and not self.asked:
            state = ("nothing against it; no question was asked",)
        facts = [
            ("server", _said(self.reachable, "answers", "does not answer")),
            ("key", _said(self.key_accepted, "accepted", "missing or refused")),
            ("model", _said(self.known, "there", "not there")),
            ("context", "unknown" if self.context is None else f"{self.context:,} tokens"),
        ]
        if self.tokens_per_s is not None and self.seconds is not None:
            took = formats.seconds(self.seconds)
            facts.append(("speed", f"{self.tokens_per_s:,.0f} tokens/s, one call of {took}"))
        if self.cost_usd == 0:
            cost = "free"
        elif self.cost_usd != self.cost_usd:
            cost = "its cost is unknown"
        else:
            cost = f"{'cost' if self.asked else 'would cost'} at most {formats.usd(self.cost_usd)}"
        facts.append(("question", cost))
        blocks: list[Block] = [
            Head(f"Probe of {formats.cell(self.model, formats.MAX_NAME)}", state),
            Facts(tuple(Fact(label, (said,)) for label, said in facts), is_ruled=True),
        ]
        if self.problem:
            blocks.append(Paragraph((formats.cell(self.problem, 1000),)))
        return Document(tuple(blocks))


def _said(fact: bool | None, yes: str, no: str) -> str:
    return "not known" if fact is None else yes if fact else no


def probe_cost_usd(model: Model) -> float:
    """The most that the question costs at list price; NaN where the price is unknown."""
    price = price_of(model)
    if price is None:
        return math.nan
    return price.cost(Usage(MAX_QUESTION_TOKENS, MAX_ANSWER_TOKENS))


async def probe_model(model: Model, *, ask: bool) -> Probe:
    """Look at the server's list, then ask the question if `ask` is True. Raises nothing of LLMError."""
    reachable: bool | None = None
    accepted: bool | None = None
    known: bool | None = None
    problem = ""
    listing: Listing | None = None
    missing = model.missing_key()
    if missing:
        accepted, problem = False, f"{missing} is not set; set it, or give the model api_key="
    else:
        try:
            listing = await model.list_models()
        except LLMError as exc:
            reachable, accepted = _told_by(exc)
            # A server without a list of models may still answer questions.
            if exc.kind in ("auth", "connection", "timeout"):
                problem = _words(exc)
    if listing is not None:
        reachable, known = True, listing.has(model.name)
        accepted = True if getattr(model, "key_name", "") else None
        if known is False:
            there = formats.some_names(sorted(listing.names)) or "none"
            problem = f"the server has no model {model.name!r}; it has: {there}"
    found = Probe(
        model=model.name,
        provider=model.provider,
        reachable=reachable,
        key_accepted=accepted,
        known=known,
        context=_context(model, listing),
        cost_usd=probe_cost_usd(model),
        problem=problem,
    )
    # A list may lack a model that answers all the same, so only a server that is not there,
    # or a key that is not taken, makes the question pointless.
    return found if not ask or (problem and known is not False) else await _ask(model, found)


async def _ask(model: Model, found: Probe) -> Probe:
    request = Request(QUESTION, temperature=0.0, max_tokens=MAX_ANSWER_TOKENS)
    facts = vars(found)
    start = time.perf_counter()
    try:
        reply = await model.complete(request)
    except LLMError as exc:
        note_call(model, found.cost_usd if exc.maybe_billed else 0.0, failed=True)
        reachable, accepted = _told_by(exc)
        known = False if exc.kind == "not_found" else found.known
        told = {
            "reachable": found.reachable if reachable is None else reachable,
            "key_accepted": found.key_accepted if accepted is None else accepted,
            "known": known,
            "problem": _words(exc),
        }
        return Probe(**{**facts, **told, "asked": True})
    took = time.perf_counter() - start
    price, usage = price_of(model), reply.usage
    if price is not None and price.is_free:
        usd = 0.0
    else:
        usd = math.nan if price is None or usage is None else price.cost(usage)
    note_call(model, usd)
    speed = usage.output_tokens / took if usage is not None and took > 0 else None
    problem = ""
    if reply.finish in ("refused", "filtered") or not reply.text.strip():
        problem = f"the answer to a plain question was {_bad(reply.finish)}"
        if reply.finish == "length":
            problem += "; the model thinks before it answers: give steps a large max_tokens"
    told_now = {
        "reachable": found.reachable if not _is_remote(model) else True,
        "key_accepted": True if getattr(model, "key_name", "") else found.key_accepted,
        "known": True,
        "asked": True,
        "seconds": took,
        "tokens_per_s": speed,
        "answer": reply.text,
        "usage": usage,
        "problem": problem,
    }
    return Probe(**{**facts, **told_now})


def _bad(finish: str) -> str:
    if finish in ("refused", "filtered"):
        return finish
    return "empty" if finish != "length" else "cut to nothing"


def _is_remote(model: Model) -> bool:
    return getattr(model, "base_url", None) is not None


def _told_by(error: LLMError) -> tuple[bool | None, bool | None]:
    """What an error says of the server and of the key."""
    if error.kind in ("connection", "timeout"):
        return False, None
    if error.kind == "auth":
        return (True if error.status is not None else None), False
    return (True if error.status is not None else None), None


def _words(error: LLMError) -> str:
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def _context(model: Model, listing: Listing | None) -> int | None:
    for setting in ("num_ctx", "n_ctx"):
        given = getattr(model, setting, None)
        if isinstance(given, int):
            return given
    told = listing.context(model.name) if listing is not None else None
    return told if told is not None else listed_context(model)
