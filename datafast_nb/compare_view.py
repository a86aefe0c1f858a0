"""The display of a comparison: prompts, figures, then the records side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from datafast_nb.compare_records import RecordsSideBySide, glance, length, number_text
from datafast_nb.compare_sides import End
from datafast_nb.compare_steps import ALL_STEPS, Figure, PromptChange, StepChange
from datafast_nb.display import formats
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Head,
    Inline,
    Legend,
    Line,
    Listing,
    Mark,
    Paragraph,
    Row,
    Section,
    Span,
    Style,
    Table,
    Value,
    code,
    fields_marked,
    muted,
)
from datafast_nb.display.worddiff import merged
from datafast_nb.models.pricing import price_of
from datafast_nb.steps.base import SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.ledger import Ledger, LedgerLine, new_calls

if TYPE_CHECKING:
    from datafast_nb.compare import ComparedRow, Comparison
    from datafast_nb.compare_sides import Side

MAX_ONLY = 5
BEYOND = End("beyond").words
MAX_PROMPT = 6_000
MAX_NAMED = 4
"""Changed steps named in the first lines."""


def compare_view(made: Comparison) -> Document:
    """The document of a comparison."""
    blocks: list[Block] = [_head(made)]
    legend = _legend(made)
    if legend:
        blocks.append(Legend(legend))
    if made.note:
        blocks.append(Paragraph((f"Records are {made.note}.",), is_note=True))
    if not made.rows:
        blocks.append(Paragraph(_why_none(made)))
    blocks.extend(_prompts(made))
    blocks.extend(_settings(made))
    blocks.extend(_figures(made))
    blocks.extend(RecordsSideBySide(made).blocks())
    for rows, here, there in (
        (made.only_a, made.names[0], made.names[1]),
        (made.only_b, made.names[1], made.names[0]),
    ):
        seen = [row for row in rows if row.end != BEYOND]
        if seen:
            blocks.append(_only(seen, here, there))
    blocks.extend(_next(made))
    return Document(tuple(blocks))


# What this is.


def _head(made: Comparison) -> Head:
    a, b = (_name(n) for n in made.names)
    said = [
        _name(c.name) if c.kind == "changed" else f"{_name(c.name)} {c.kind}" for c in made.changes
    ]
    title = f"{said[0]}, {a} → {b}" if len(said) == 1 else f"{a} → {b}"
    facts = []
    if len(said) > 1:
        names = f": {', '.join(said)}" if len(said) <= MAX_NAMED else ""
        facts.append(f"{len(said)} steps changed{names}")
    common = f"same {formats.plural(len(made.rows), 'record')}"
    facts.append(common if made.rows else "no records in common")
    n, same, waiting = len(made.changed), len(made.identical), len(made.pending)
    word = "answer" if any(isinstance(c.b, LLMStep) for c in made.changes) else "record"
    differ = f"{formats.plural(n, word)} {'differs' if n == 1 else 'differ'}" if n else ""
    one_sided = _one_sided(made)
    if one_sided:
        differ = f"{one_sided}, nothing else differs"
    identical = f"{same:,} {'is' if same == 1 else 'are'} identical" if same else ""
    facts.append(", ".join(part for part in (differ, identical) if part))
    facts.append(f"{waiting:,} pending" if waiting else "")
    for rows, here, there in ((made.only_a, a, b), (made.only_b, b, a)):
        beyond = sum(row.end == BEYOND for row in rows)
        facts.append(f"{len(rows) - beyond:,} only in {here}" if len(rows) > beyond else "")
        facts.append(f"{beyond:,} beyond the limit of {there}" if beyond else "")
    return Head(title, (" · ".join(fact for fact in facts if fact),))


def _one_sided(made: Comparison) -> str:
    """Say "new column x" where all that differs is columns that one side lacks; else ""."""
    both = [(row.a, row.b) for row in made.changed if row.a is not None and row.b is not None]
    lacking = [{c for c in made.columns if all(c not in p[k] for p in both)} for k in (0, 1)]
    if not both or lacking[0] | lacking[1] != set(made.columns):
        return ""
    parts = []
    for word, columns in (("new", lacking[0]), ("dropped", lacking[1])):
        names = [c for c in made.columns if c in columns]
        if names:
            noun = "column" if len(names) == 1 else "columns"
            parts.append(f"{word} {noun} {formats.some_names(names)}")
    return ", ".join(parts)


def _legend(made: Comparison) -> tuple[Line, ...]:
    """What the run of each side paid and saved when it ran; comparing them cost nothing."""
    pending = math.ceil(made.to_ask[0])
    items: list[Line] = []
    seen: set[int] = set()
    is_one = {id(r) for r in made.sides[0].runs} == {id(r) for r in made.sides[1].runs}
    for side in made.sides:
        # A step that both sides share counts once.
        runs = [run for run in side.runs if id(run) not in seen]
        seen.update(map(id, runs))
        total = Ledger.of(c for run in runs for c in run.calls).total
        whose = "the run of both" if is_one else f"run of {_name(side.name)}"
        for mark, said in _bill(total):
            items.append((mark, f" {whose}:{said}"))
    if pending:
        items.append((Mark("pending"), f" {formats.plural(pending, 'call')} pending"))
    return tuple(items)


def _bill(total: LedgerLine) -> Iterator[tuple[Mark, str]]:
    if total.new:
        yield Mark("new"), f" {new_calls(total)}"
    if total.answered:
        saved = f", saved {formats.usd(total.saved_usd)}" if total.saved_usd else ""
        yield Mark("memo"), f" {total.answered:,} from the memo{saved}"
    if total.failed:
        yield Mark("failed"), f" {total.failed:,} failed"


def _why_none(made: Comparison) -> Line:
    if not any(side.records for side in made.sides):
        return ("Neither side has a record.",)
    for side in made.sides:
        if not side.records:
            return (f"{_name(side.name)} has no record.",)
    if made.note:
        return ("No record of one side has the values of a record of the other.",)
    sources = [_source(side) for side in made.sides]
    said = " and ".join(
        f"{_name(side.name)} reads {s}" for side, s in zip(made.sides, sources, strict=True)
    )
    return (
        f"Not one record of the two comes from the same source row: {said}. "
        "If a column tells which records belong together, name it: ",
        code("dfn.diff(…, on='id')"),
    )


def _source(side: Side) -> str:
    first = side.runs[0].step if side.runs else None
    said = formats.described(first) if isinstance(first, SourceStep) else ""
    return formats.cell(said, 120) if said else "its source"


# What was changed.


def _prompts(made: Comparison) -> Iterator[Section]:
    edited = [change for change in made.changes if change.prompts]
    for change in edited:
        title = "Prompt" if len(edited) == 1 else f"Prompt of {_name(change.name)}"
        roles = {p.role for p in change.prompts}
        note = ""
        if len(roles) == 1:
            role = next(iter(roles))
            other = "system" if role == "user" else "user"
            has_system = isinstance(change.b, LLMStep) and change.b.system_prompt is not None
            note = f"{role} message"
            if other == "user" or has_system:
                note += f"; the {other} message is the same"
        body: list[Block] = []
        for prompt in change.prompts:
            if len(change.prompts) > 1:
                body.append(Paragraph((muted(f"{prompt.role} message"),)))
            body.extend(_prompt(prompt))
        yield Section(title, (note,) if note else (), tuple(body))


def _prompt(prompt: PromptChange) -> Iterator[Listing]:
    line = merged(prompt.a or "", prompt.b or "")
    styles = [part.style if isinstance(part, Span) else "" for part in line]
    if styles == ["deleted", "inserted"]:  # rewritten: one below the other
        for part in line:
            yield Listing(_prompt_text((part,)))
        return
    yield Listing(_prompt_text(line))


def _prompt_text(line: Line) -> Line:
    out: list[Inline] = []
    left = MAX_PROMPT
    for n, part in enumerate(line):
        text, style = (part.text, part.style) if isinstance(part, Span) else (str(part), "")
        shown = formats.printable(text)
        if left <= 0:
            out.append(muted(f"… +{sum(map(length, line[n:])):,}"))
            break
        shown = formats.clip(shown, left)
        left -= len(shown)
        if not style:
            out.extend(fields_marked(shown))
            continue
        core = shown.strip()
        if not core:
            out.append(Span(shown.replace("\n", "↵\n").replace(" ", "␣"), style))
            continue
        start = shown.index(core)
        before = shown[:start]
        if not before and style == "inserted" and out and _is_deleted(out[-1]):
            before = " "
        after = shown[start + len(core) :]
        out.extend(part for part in (before, Span(core, style), after) if part)
    return tuple(out)


def _is_deleted(part: Inline) -> bool:
    return isinstance(part, Span) and part.style == "deleted"


def _settings(made: Comparison) -> Iterator[Section]:
    facts = []
    is_one = len(made.changes) == 1
    for change in made.changes:
        name = _name(change.name)
        if change.kind != "changed":
            facts.append(Fact(name, _step_line(change)))
            continue
        for setting, a, b in change.settings:
            label = _name(setting) if is_one else f"{name}: {_name(setting)}"
            facts.append(Fact(label, (f"{a} → {b}" if a else b,)))
        if not change.settings and not change.prompts:
            facts.append(Fact(name, ("changed",)))
    if facts:
        yield Section("Steps" if any(c.kind != "changed" for c in made.changes) else "Settings",
                      (), (Facts(tuple(facts)),))  # fmt: skip


def _step_line(change: StepChange) -> Line:
    step = change.b if change.b is not None else change.a
    said = formats.cell(formats.described(step), 200)
    kind: Style = "inserted" if change.kind == "added" else "deleted"
    return (Span(change.kind, kind), f" {type(step).__name__}{': ' if said else ''}{said}")


# What it costs.


def _figures(made: Comparison) -> Iterator[Block]:
    a, b = (_name(n) for n in made.names)
    groups = [(step, list(some)) for step, some in groupby(made.figures, lambda f: f.step)]
    tables: list[tuple[str, list[Row]]] = []
    for step, some in groups:
        rows = [_figure(made, f) for f in some if not _is_noise(f)]
        if step == ALL_STEPS and len(tables) == 1:
            some = [f for f in some if f.unit == "usd" or f.a != f.b]
            rows = [_figure(made, f, ", all steps") for f in some]
            tables[-1][1].extend(rows)
        elif step or not tables:
            tables.append((f"{_name(step)}, scaled to 1,000 records" if step else "means", rows))
        else:
            tables[-1][1].extend(rows)
    for title, rows in tables:
        if rows:
            columns = (Column(title, "word"), Column(a, "number"), Column(b, "number"))
            yield Table((*columns, Column("change", "number")), tuple(rows))
    if any(f.step for f in made.figures):
        basis = (
            "calls about the source rows that both sides have seen"
            if made.scope.is_common
            else "all calls of each side"
        )
        yield Paragraph((f"Dollars at list price; figures rest on {basis}.",), is_note=True)


def _is_noise(figure: Figure) -> bool:
    """Times that say nothing: answers made up on the spot."""
    return figure.unit == "seconds" and max(figure.a or 0, figure.b or 0) < 0.05


def _figure(made: Comparison, figure: Figure, suffix: str = "") -> Row:
    label = figure.name + suffix
    if figure.unit == "mean":
        label = f"{_name(figure.name)}, mean of {figure.of[0]:,}"
    cells = []
    for k, value in enumerate((figure.a, figure.b)):
        if value is None:
            cells.append(Cell((Mark("pending"), " pending")) if figure.pending[k] else Cell())
        else:
            cells.append(Cell((_amount(made, figure, k, value),)))
    return (Cell((label,)), *cells, Cell((_change(figure),)))


def _amount(made: Comparison, figure: Figure, k: int, value: float) -> str:
    match figure.unit:
        case "usd":
            return "free" if value == 0 and _is_free(made, k, figure.step) else formats.usd(value)
        case "tokens":
            return formats.amount(value)
        case "seconds":
            return formats.seconds(value)
        case "failed":
            return f"{value:,.0f} of {figure.of[k]:,}"
        case "calls":
            return formats.count(value)
    return number_text(value)


def _change(figure: Figure) -> str:
    if figure.a is None or figure.b is None:
        return ""
    if figure.unit == "failed":
        share = [x / n if n else 0.0 for x, n in zip((figure.a, figure.b), figure.of, strict=True)]
        more = f"{figure.b - figure.a:+,.0f}".replace("-", "−")
        return "same" if share[0] == share[1] else more if more != "+0" else ""
    if figure.unit == "mean":
        said = [
            f"{n:,} {word}" for n, word in ((figure.higher, "higher"), (figure.lower, "lower")) if n
        ]
        return ", ".join(said) or "same"
    shown = formats.change(figure.a, figure.b)
    return "same" if shown in ("−0%", "+0%") else shown


def _is_free(made: Comparison, k: int, name: str) -> bool:
    change = next((c for c in made.changes if c.name == name), None)
    step = None if change is None else (change.a, change.b)[k]
    steps = [step] if step is not None else [run.step for run in made.sides[k].runs]
    models = [m for s in steps if isinstance(s, LLMStep) for m in s.models]
    prices = [price_of(m) for m in models]
    return all(p is not None and p.is_free for p in prices)


# Records of one side, and what to do next.


def _only(rows: Sequence[ComparedRow], here: str, there: str) -> Section:
    ends = Counter(row.end.partition(":")[0] for row in rows)
    said = ", ".join(f"{n:,} {end}" for end, n in ends.most_common(5) if end)
    note = formats.plural(len(rows), "record") + (f" · in {_name(there)}: {said}" if said else "")
    lines: list[Row] = []
    for row in rows[:MAX_ONLY]:
        record = row.a if row.a is not None else row.b
        column, _ = glance(record, ())
        value = Value((record or {}).get(column, ""))
        end = Cell((formats.cell(row.end, 240),))
        lines.append((Cell((muted(f"{row.index:,}"),)), value, end))
    columns = Column("", "index"), Column("record", "text"), Column(f"in {_name(there)}", "text")
    body: list[Block] = [Table(columns, tuple(lines))]
    if len(rows) > MAX_ONLY:
        body.append(Paragraph((f"and {len(rows) - MAX_ONLY:,} more",), is_note=True))
    return Section(f"Only in {_name(here)}", (note,), tuple(body))


def _next(made: Comparison) -> Iterator[Paragraph]:
    calls, usd = made.to_ask
    names = [n if n.isidentifier() else x for n, x in zip(made.names, "ab", strict=True)]
    if calls:
        runs = []
        for name, side in zip(names, made.sides, strict=True):
            limit = "" if side.limit is None else f"limit={side.limit}"
            runs.append(f"{name}.run({limit})" if side.is_dry else name)
        price = "free" if usd == 0 else f"about {formats.usd(usd)}"
        if math.isnan(usd):
            price = "price unknown"
        yield Paragraph(
            (
                "For the pending answers: ", code(f"dfn.diff({', '.join(runs)})"),
                f" asks {formats.plural(math.ceil(calls), 'call')}, {price}.",
            )
        )  # fmt: skip
    elif made.changes and made.sides[1].pipeline is not None:
        yield Paragraph(
            (f"Keep {_name(made.names[1])}: ", code(f".pipeline({_quoted(made.names[1])})")),
            is_note=True,
        )


def _quoted(text: str) -> str:
    return f'"{text}"' if '"' not in text and text.isprintable() else repr(text)


def _name(text: str) -> str:
    return formats.cell(text, formats.MAX_NAME)
