"""What an estimate rests on: replies at hand, figures that earlier runs left, or assumptions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datafast_nb.display import formats
from datafast_nb.errors import DatafastError
from datafast_nb.logs import logger
from datafast_nb.models.pricing import Price, list_usd, price_of
from datafast_nb.ranges import NORMAL, UNIFORM, ZERO, Uncertain, beta, between, drawn, share
from datafast_nb.steps.base import SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.measured import (
    Fan,
    Fit,
    Replies,
    StepFigures,
    add_figures,
    digest,
    model_name,
    read_figures,
)
from datafast_nb.store.memo import Memo

if TYPE_CHECKING:
    from datafast_nb.models.base import Model
    from datafast_nb.runs import CallRow, StepRun
    from datafast_nb.validate import CompiledNode, CompiledPipeline

BYTES_PER_TOKEN = 4.0
"""Rough size of a token of English text, where nothing has been measured."""
ASSUMED_OUTPUT_TOKENS = 256
MOST_OUTPUT_TOKENS = 4096
"""Longest reply that is thought of where `max_tokens` is None."""
MOST_WRAPPING_TOKENS = 1_000
"""Input tokens of a call beside its messages: their frame, the schema of the answer."""
ASSUMED_USABLE = (9.5, 0.5)
"""Beta of the share of replies that are of use, before any."""
MAX_MEASURED = 500
"""Answers of a step that are looked at again, evenly spread."""
MAX_KEPT_CALLS = 2_000
ANY_STEP = ""
"""Name under which the figures of a model over all steps are kept."""
BYTES_PER_MESSAGE = 16
ENOUGH = 3
OTHER_PROMPT = 0.3
"""How far a figure may be off that was measured with another prompt, relative."""
OTHER_MODEL = 0.5


def prompt_bytes(row: CallRow) -> float:
    """Size of what was or would be sent; NaN where the run had too many calls to keep it."""
    if not row.messages:
        return math.nan
    return float(
        sum(len(m["content"].encode("utf-8", "replace")) + BYTES_PER_MESSAGE for m in row.messages)
    )


def mean_bytes(rows: Sequence[CallRow]) -> float | None:
    """Mean size of the prompts that are known; None where none is."""
    sizes = [b for b in map(prompt_bytes, rows) if b == b]
    return sum(sizes) / len(sizes) if sizes else None


def settings_of(step: LLMStep) -> dict[str, str]:
    """Digest of each setting that decides answers."""
    values = {
        "prompt": [t.text for t in step._templates],
        "system_prompt": step.system_prompt,
        "examples": step.examples,
        "model": [model_name(m.identity()) for m in step.models],
        "temperature": step._temperatures,
        "max_tokens": step.max_tokens,
        "top_p": step.top_p,
        "output_columns": step.spec.schema(),
        "language": step._languages,
        "extra": step.extra,
        "resample": step.resample,
    }
    return {name: digest(value) for name, value in values.items()}


def fan_of(run: StepRun) -> Fan:
    """What a free step made of each record at hand."""
    if run.parents.known:
        return Fan.of(Counter(run.parents.all()).values(), run.n_in)
    return Fan(run.n_in, run.n_out, run.n_out**2 / run.n_in if run.n_in else 0.0)


# What a run leaves for later estimates.


def keep_figures(memo: Memo, steps: Sequence[StepRun]) -> None:
    """Leave figures of the calls that this run asked, for estimates of edited steps."""
    for i, run in enumerate(steps):
        if not isinstance(run.step, LLMStep):
            continue
        found = _asked(run, run.step)
        if not found:
            continue
        new = StepFigures(settings_of(run.step), found)
        for later in steps[i + 1 :]:
            if isinstance(later.step, LLMStep):
                break
            if later.n_in:
                new.after[later.name] = fan_of(later)
        try:
            add_figures(memo, run.name, run.step.spec.columns, new)
            for name, replies in found.items():
                add_figures(memo, ANY_STEP, [name], StepFigures(models={name: replies}))
        except Exception:  # the run is done; later estimates know a bit less
            logger.info(
                "the figures of step %r were not kept for estimates", run.name, exc_info=True
            )


def _asked(run: StepRun, step: LLMStep) -> dict[str, Replies]:
    found: dict[str, Replies] = {}
    names = [model_name(v.model.identity()) for v in step.variants]
    n = 0
    for row in run.calls:
        if not row.attempts or row.status not in ("new", "failed"):
            continue
        if row.status == "failed" and row.text is None:
            continue  # no reply came
        tokens = (row.input_tokens, row.output_tokens)
        size = prompt_bytes(row)
        found.setdefault(names[row.variant], Replies()).add(
            size if size == size else row.input_tokens * BYTES_PER_TOKEN,
            tokens if any(tokens) else None,
            row.latency_s,
            is_usable=row.status == "new",
        )
        n += 1
        if n >= MAX_KEPT_CALLS:
            break
    return found


# What an estimate finds.


@dataclass
class ModelBasis:
    """Figures of one model at one step, from the best source there is.

    Sources stand best first: answers at hand, earlier runs of the step (another prompt), then
    other models at hand and in earlier runs.
    """

    model: Model
    name: str
    """Of the step: seeds the draws, so that all its models were asked about equally odd records."""
    sources: list[tuple[str, float, Replies]]
    """(words, how far a figure from there may be off, relative; figures)"""
    of_model: Replies | None
    """The model at any step: tokens per byte, tokens per second."""
    max_tokens: int | None
    template_bytes: float

    def _best(self, least: int = ENOUGH) -> tuple[str, float, Replies] | None:
        known = [s for s in self.sources if s[2].tokens_out.n]
        enough = [s for s in known if s[2].tokens_out.n >= least]
        return enough[0] if enough else max(known, key=lambda s: s[2].tokens_out.n, default=None)

    def tokens_in(self, n_bytes: float | None, n_new: float) -> Uncertain:
        """Input tokens of a call; `n_bytes`: mean size of the prompts, None: like those seen."""
        made = self._tokens_in(n_bytes, n_new)
        if n_bytes is None:
            return made
        # No token is shorter than a byte. The likely value, which was counted, is not touched.
        best = self._best(1)
        tries = best[2].n_replies / best[2].n_calls if best is not None else 1.0
        return made.at_most(max((n_bytes + MOST_WRAPPING_TOKENS) * tries, made.likely))

    def _tokens_in(self, n_bytes: float | None, n_new: float) -> Uncertain:
        name = f"{self.name}/in"
        best = self._best(1)
        if best is not None:
            _, off, replies = best
            if off and n_bytes is not None and self.of_model is not None:
                fit = self.of_model.tokens_in
                if fit.n:
                    return fit.expect(name, n_bytes, n_new, scatter=0.1, is_proportional=True)
            fit = replies.tokens_in
            scatter = 0.4 if n_bytes is None else 0.1
            made = fit.expect(name, n_bytes, n_new, scatter=scatter, is_proportional=True)
            return _blurred(made, name, off / 2 if n_bytes is None else off / 4)
        if n_bytes is not None:
            if self.of_model is not None and self.of_model.tokens_in.n:
                fit = self.of_model.tokens_in
                return fit.expect(name, n_bytes, n_new, scatter=0.1, is_proportional=True)
            return between(name, n_bytes / 6, n_bytes / BYTES_PER_TOKEN, n_bytes / 2.5)
        size = self.template_bytes
        return between(name, size / 6, (size + 200) / BYTES_PER_TOKEN, (size + 4_000) / 3)

    def tokens_out(self, n_bytes: float | None, n_new: float) -> Uncertain:
        """Output tokens of a call, what was asked again included."""
        name = f"{self.name}/out"
        most = self.max_tokens or MOST_OUTPUT_TOKENS
        best = self._best()
        if best is None:
            likely = min(most, ASSUMED_OUTPUT_TOKENS)
            return between(name, likely / 8, likely, most)
        _, off, replies = best
        made = replies.tokens_out.expect(name, n_bytes, n_new, scatter=0.5)
        per_call = replies.n_replies / replies.n_calls
        # Tokens that were counted may be more than was allowed; the likely value is not touched.
        return _blurred(made, name, off).at_most(max(most * per_call, made.likely))

    def seconds(self, tokens_out: float, n_new: float) -> Uncertain:
        """Seconds of a call; NaN where nothing has been measured."""
        found = [r.seconds for _, off, r in self.sources if r.seconds.n and off < OTHER_MODEL]
        if self.of_model is not None:
            found.append(self.of_model.seconds)
        fit = next((f for f in found if f.n), Fit())
        if not fit.n:
            return Uncertain(math.nan)
        name = f"{self.name}/seconds"
        return _blurred(fit.expect(name, tokens_out, n_new, scatter=0.5), name, 0.2)

    @property
    def n_timed(self) -> float:
        """Replies that tell how long a call takes."""
        own = [r.seconds.n for _, off, r in self.sources if r.seconds.n and off < OTHER_MODEL]
        return own[0] if own else self.of_model.seconds.n if self.of_model is not None else 0

    @property
    def cached_share(self) -> float:
        """Share of the input tokens that come from the provider's prompt cache."""
        best = self._best(1)
        return best[2].cached_share if best is not None and not best[1] else 0.0

    @property
    def words_in(self) -> str:
        """Where the input tokens come from."""
        best = self._best(1)
        if best is not None and not best[1]:
            return f"measured on {counted(best[2].n_calls, 'reply', 'replies')}"
        if self.of_model is not None and self.of_model.tokens_in.n:
            n = self.of_model.n_calls
            return f"bytes of the prompts, at the rate of {counted(n, 'earlier call', 'earlier calls')}"
        if best is not None:
            return f"{counted(best[2].n_calls, 'reply', 'replies')} {best[0]}"
        return f"bytes of the prompts, assumed {BYTES_PER_TOKEN:g} a token"

    @property
    def words_out(self) -> str:
        """Where the output tokens come from."""
        best = self._best()
        if best is None:
            most = self.max_tokens or MOST_OUTPUT_TOKENS
            likely = min(most, ASSUMED_OUTPUT_TOKENS)
            return f"assumed {likely:,} output tokens a call, range {likely // 8:,} to {most:,}"
        if not best[1]:
            return f"mean of {counted(best[2].n_calls, 'answer', 'answers')} in the memo"
        return f"{counted(best[2].n_calls, 'reply', 'replies')} {best[0]}"

    @property
    def words_price(self) -> str:
        """The list price, and where it is from."""
        price = price_of(self.model)
        if price is None:
            return "unknown: give the model price=(input, output) in dollars per 1M tokens"
        if price.is_free:
            return "free"
        source = f", {price.source}" if price.source else ""
        return (
            f"{list_usd(price.input_per_mtok_usd)} in and {list_usd(price.output_per_mtok_usd)} "
            f"out per 1M tokens{source}"
        )


@dataclass
class StepBasis:
    """All that is known of the replies to one LLM step."""

    step: LLMStep
    models: dict[str, ModelBasis]
    """By `model_name`, in the step's order."""
    earlier: StepFigures | None
    usable: Uncertain
    """Share of the calls that bring a record."""
    names: list[str] = field(default_factory=list)
    """`model_name` of each variant."""
    n_replies: float = 0.0
    n_calls: float = 0.0


def basis_of(run: StepRun, step: LLMStep, memo: Memo | None) -> StepBasis:
    """What is known of the replies to `step`, after a run that asked nothing."""
    names = [model_name(v.model.identity()) for v in step.variants]
    now = _at_hand(run, names, memo)
    earlier = None if memo is None else read_figures(memo, run.name, step.spec.columns)
    left = {} if earlier is None else earlier.models
    sizes = [len(t.text.encode()) for t in step._templates]
    models = {}
    for variant, name in zip(step.variants, names, strict=True):
        if name in models:
            continue
        any_step = None if memo is None else read_figures(memo, ANY_STEP, [name])
        models[name] = ModelBasis(
            variant.model,
            run.name,
            [
                (words, off, replies)
                for words, off, replies in (
                    ("at hand", 0.0, now.get(name)),
                    ("to another prompt of this step", OTHER_PROMPT, left.get(name)),
                    ("of other models", OTHER_MODEL, _merged(now, name)),
                    ("of other models, to another prompt", 2 * OTHER_PROMPT, _merged(left, name)),
                )
                if replies is not None
            ],
            any_step.models.get(name) if any_step is not None else None,
            step.max_tokens,
            sum(sizes) / len(sizes),
        )
    seen = list(now.values())
    return StepBasis(
        step,
        models,
        earlier,
        _usable(run, left),
        names,
        n_replies=sum(r.n_replies for r in seen),
        n_calls=sum(r.n_calls for r in seen),
    )


def _at_hand(run: StepRun, names: Sequence[str], memo: Memo | None) -> dict[str, Replies]:
    """Figures of the stored answers, by model."""
    rows = {(r.key, r.label): r for r in run.calls if r.status in ("answered", "failed")}
    chosen = list(rows.items())
    if len(chosen) > MAX_MEASURED:
        chosen = [chosen[i * len(chosen) // MAX_MEASURED] for i in range(MAX_MEASURED)]
    draws = memo.get_many([spot for spot, _ in chosen]) if memo is not None else []
    # Replies about one record resemble each other: two of them tell less than two of different ones.
    records = Counter((names[r.variant], r.record) for _, r in chosen)
    found: dict[str, Replies] = {}
    for (_, row), draw in zip(chosen, draws or [None] * len(chosen), strict=True):
        replies = found.setdefault(names[row.variant], Replies())
        n_bytes = prompt_bytes(row)
        if n_bytes != n_bytes:
            n_bytes = row.input_tokens * BYTES_PER_TOKEN
        is_usable = row.status == "answered"
        weight = 2.0 / (1.0 + records[names[row.variant], row.record])
        if draw is not None:
            replies.add_draw(n_bytes, draw.replies, is_usable=is_usable, weight=weight)
        elif row.input_tokens or row.output_tokens:
            tokens = (row.input_tokens, row.output_tokens)
            replies.add(n_bytes, tokens, row.latency_s, is_usable=is_usable, weight=weight)
    return found


def _merged(replies: dict[str, Replies], without: str) -> Replies | None:
    made = None
    for name, some in replies.items():
        if name != without:
            made = made or Replies()
            made.merge(some)
    return made


def _usable(run: StepRun, left: dict[str, Replies]) -> Uncertain:
    counts = Counter(r.status for r in run.calls)
    n = counts["answered"] + counts["failed"]
    name = f"{run.name}/usable"
    if n:
        return share(name, counts["answered"], n)
    n_left = sum(r.n_calls for r in left.values())
    if n_left:
        rate = sum(r.n_usable for r in left.values()) / n_left
        n_left = min(n_left, 20.0)
        return share(name, rate * n_left, n_left)
    good, bad = ASSUMED_USABLE
    return drawn(name, 1.0, beta(good, bad))


def distinct_share(run: StepRun, step: LLMStep) -> Uncertain:
    """How many of the calls to come are questions of their own, not those of equal records."""
    if not all(v.is_deterministic for v in step.variants) or not run.calls:
        return Uncertain(1.0)
    n = len({(c.key, c.label) for c in run.calls})
    if n == len(run.calls):
        return Uncertain(1.0)
    likely = n / len(run.calls)
    return drawn(f"{run.name}/distinct", likely, UNIFORM)


def tokens_of(
    model: ModelBasis, known: Sequence[CallRow], further: Uncertain
) -> tuple[Uncertain, Uncertain]:
    """Input and output tokens of the calls that are known, and of those to come."""
    tokens_in = tokens_out = ZERO
    if known:
        n, size = float(len(known)), mean_bytes(known)
        tokens_in = model.tokens_in(size, n) * n
        tokens_out = model.tokens_out(size, n) * n
    if further.range.high:
        n = max(1.0, further.likely)
        tokens_in = tokens_in + model.tokens_in(None, n) * further
        tokens_out = tokens_out + model.tokens_out(None, n) * further
    return tokens_in, tokens_out


def dollars(
    price: Price, tokens_in: Uncertain, tokens_out: Uncertain, model: ModelBasis
) -> Uncertain:
    """List price of tokens, at the share of cached ones that has been measured."""
    cost = tokens_in * (price.input_per_mtok_usd / 1e6) + tokens_out * (
        price.output_per_mtok_usd / 1e6
    )
    cheaper = price.cached_input_per_mtok_usd
    cached = model.cached_share
    if cheaper is None or not cached:
        return cost
    off = (price.input_per_mtok_usd - cheaper) / 1e6
    part = drawn(f"{model.name}/cached", cached, [cached * (0.5 + u) for u in UNIFORM])
    return cost - tokens_in * part.at_most(1.0) * off


def _blurred(figure: Uncertain, name: str, off: float) -> Uncertain:
    """The figure, of which the source itself may be off by a factor about 1 ± `off`."""
    if not off:
        return figure
    factor = drawn(f"{name}/source", 1.0, [math.exp(off * z) for z in NORMAL])
    return figure * factor


def counted(n: float, word: str, words: str) -> str:
    """A number with its noun: "1 reply", "20 replies"."""
    return f"{n:,.0f} {word if n == 1 else words}"


def is_free(step: LLMStep) -> bool:
    """All its models are."""
    prices = [price_of(m) for m in step.models]
    return all(p is not None and p.is_free for p in prices)


def missing_keys(nodes: Sequence[CompiledNode]) -> list[str]:
    """A sentence for each model that could not be asked for want of a key."""
    found: dict[str, None] = {}
    for node in nodes:
        try:
            models = node.step.models if isinstance(node.step, LLMStep) else []
        except (TypeError, ValueError, DatafastError):
            continue  # compiling lists it as a problem
        for model in models:
            missing = model.missing_key()
            if missing:
                name = formats.cell(model.name, formats.MAX_NAME)
                found[f"{missing} is not set: step '{node.name}' cannot ask '{name}'"] = None
    return list(found)


def count_of(compiled: CompiledPipeline) -> int | None:
    """Records of the source, where it knows them without reading."""
    source = compiled.nodes[0].step
    try:
        return source.count() if isinstance(source, SourceStep) else None
    except Exception:  # a file that is gone, a source of the user: the run says it better
        return None
