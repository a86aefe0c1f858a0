"""What the browser asks of a panel, and who answers: `docs/panel-protocol.md`, section Requests.

A message is looked at on the thread it comes on, which may be any, and worked off by one of the
panel's own. Where a host shows nothing that comes later (Colab), it is worked off at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.engine.confirm import bounded_estimate
from datafast_nb.engine.context import RunSettings
from datafast_nb.engine.events import Event
from datafast_nb.engine.kept import calls_user_code
from datafast_nb.engine.preview import preview_of
from datafast_nb.options import options
from datafast_nb.pipeline import Pipeline
from datafast_nb.records import Record
from datafast_nb.results import Result
from datafast_nb.steps.llm import LLMStep
from datafast_nb.widgets import board
from datafast_nb.widgets.asking import Asker
from datafast_nb.widgets.board import FINAL
from datafast_nb.widgets.code import call_code, pipeline_code
from datafast_nb.widgets.columns import column_summaries
from datafast_nb.widgets.detail import (
    cell_detail,
    error_groups,
    failed_detail,
    row_detail,
    trace_detail,
)
from datafast_nb.widgets.draft import EDITED
from datafast_nb.widgets.pins import row_of
from datafast_nb.widgets.rows import Overtaken
from datafast_nb.widgets.wanted import Wanted
from datafast_nb.widgets.work import said_of

if TYPE_CHECKING:
    from datafast_nb.widgets.panel import Panel

Message = Mapping[str, Any]
Reply = Callable[[dict[str, Any]], None]
Work = Callable[[threading.Event, Callable[[Event], None]], Result]

PREVIEWED = 20
MAX_SEEN = 2_000
"""Messages that are remembered, so that one which is sent again is not worked off again."""
EXACT = 2_000
"""Records up to which an estimate looks at all of them."""


class Desk:
    """Takes the messages of one panel."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self._lock = threading.Lock()
        self._newest: dict[str, int] = {}
        """Kind of request → serial of the newest: older ones are overtaken."""
        self._seen: dict[int, None] = {}
        """Numbers of the last messages, in order."""
        self._estimate: Any = None
        self._draft: dict[str, Any] | None = None
        self._now = {
            "stop": self._stop, "poll": self._poll, "set": self._set, "pin": self._pin,
            "select": self._select, "freeze": self._freeze,
        }  # fmt: skip
        self._looks = {
            "window": self._window, "columns": self._columns, "record": self._record,
            "cell": self._cell, "cost": self._cost, "graph": self._graph, "errors": self._errors,
            "code": self._code, "draft": self._drafted, "draft_drop": lambda _: {},
        }  # fmt: skip
        # At once and in order: a run that is asked for behind an edit is of the edit.
        self._edits = {"draft": self._edit, "draft_drop": self._drop}
        self.asker = Asker(panel)
        self._renew_draft()

    # Messages.

    def receive(self, message: Any, reply: Reply) -> None:
        """Take a message; the reply comes later, or at once. Never raises."""
        if not isinstance(message, dict) or "op" not in message:
            return
        op, n = str(message["op"]), message.get("id")
        if not self._is_first(n):
            return  # sent again, since its reply is late
        if op in self._now:
            self._answer(n, partial(self._now[op], message), reply)
        elif op in self._looks:
            if op in self._edits and not self._edited(self._edits[op], message, n, reply):
                return
            job = partial(self._answer, n, partial(self._looks[op], message), reply)
            self._later(self.panel.look, job, n, reply)
        elif op == "view":
            work = partial(self._view, message, self._serial("view"))
            self._later(self.panel.look, partial(self._answer, n, work, reply), n, reply)
        elif op in self.asker.ops:
            if not self.panel.runs.claim(op):
                reply({"id": n, "ok": True, "busy": True})  # a second click is no second run
                return
            job = partial(self._answer, n, partial(self.asker.begin, op, message), reply)
            self._later(self.panel.act, job, n, reply)
        else:
            reply({"id": n, "ok": False, "error": f"no request {formats.cell(op, 40)!r}"})

    def _later(self, worker: Any, job: Callable[[], None], n: Any, reply: Reply) -> None:
        if self.panel.poll:
            job()
        elif not worker.put(job):
            reply({"id": n, "ok": False, "error": "this panel is closed"})

    def _answer(self, n: Any, work: Callable[[], dict[str, Any]], reply: Reply) -> None:
        try:
            said = {"id": n, "ok": True, **work()}
        except Overtaken:
            said = {"id": n, "ok": False, "error": "overtaken"}
        except Exception as exc:
            said = _refusal(n, exc)
        reply(said)

    def _edited(
        self, edit: Callable[[Message], None], message: Message, n: Any, reply: Reply
    ) -> bool:
        try:
            edit(message)
        except Exception as exc:
            reply(_refusal(n, exc))
            return False
        return True

    def _is_first(self, n: Any) -> bool:
        with self._lock:
            if not isinstance(n, int) or n in self._seen:
                return not isinstance(n, int)
            self._seen[n] = None
            if len(self._seen) > MAX_SEEN:
                del self._seen[next(iter(self._seen))]
            return True

    def _serial(self, kind: str) -> int:
        with self._lock:
            self._newest[kind] = self._newest.get(kind, 0) + 1
            return self._newest[kind]

    def _is_overtaken(self, kind: str, serial: int) -> bool:
        return self._newest.get(kind, 0) != serial

    # At once.

    def _stop(self, _: Message) -> dict[str, Any]:
        return {"stopping": self.panel.runs.stop()}

    def _poll(self, _: Message) -> dict[str, Any]:
        return {"state": self.panel.state()}

    def _pin(self, message: Message) -> dict[str, Any]:
        if self.panel.shelf.growing:
            raise ValueError("a record can be pinned when the run has ended")
        pins = self.panel.pins
        pins.set(int(message["row"]), on=bool(message.get("on", True)))
        self.panel._wake()
        return {"pins": pins.rows()}

    def _select(self, message: Message) -> dict[str, Any]:
        self.panel.looking.select([int(i) for i in message.get("rows") or ()])
        return {}

    def _freeze(self, _: Message) -> dict[str, Any]:
        # The reply has to leave before the line is closed.
        threading.Timer(0.05, self.panel.freeze).start() if not self.panel.poll else None
        if self.panel.poll:
            self.panel.freeze()
        return {}

    def _set(self, message: Message) -> dict[str, Any]:
        panel = self.panel
        given = dict(message.get("controls") or {})
        controls = panel.controls
        checked = {k: _control(k, v, controls) for k, v in given.items()}
        drafts = panel.drafts
        if drafts is not None and checked.get("step", controls["step"]) is not None:
            step = checked.get("step", controls["step"])
            edits = {k: checked[k] for k in ("model", "temperature", "n") if k in checked}
            if edits:
                drafts.set(step, edits)
            if "step" in checked or edits:
                settings = drafts.settings(step)
                checked |= {k: settings[k] for k in ("model", "temperature", "n")}
        controls.update(checked)
        self._renew_draft()
        if not {"record", "step"}.issuperset(given):
            self.estimate_again()
        panel._wake()
        return {}

    # Looking.

    def _window(self, message: Message) -> dict[str, Any]:
        panel = self.panel
        name = str(message.get("step") or FINAL)
        table = panel.shelf.table(name)
        view = message.get("view")
        panel.looking.at(table, view)
        made = table.window(int(message.get("start") or 0), int(message.get("n") or 100), view)
        panel.figures.put(table.warm)
        return made

    def _view(self, message: Message, serial: int) -> dict[str, Any]:
        if self._is_overtaken("view", serial):
            raise Overtaken
        table = self.panel.shelf.table(str(message.get("step") or FINAL))
        wanted = Wanted.of(message)
        view = table.view(wanted, lambda: self._is_overtaken("view", serial))
        self.panel.looking.wants(table, wanted, view)
        return {"view": view.id, "n": len(view.rows), "code": view.code, "version": table.version}

    def _columns(self, message: Message) -> dict[str, Any]:
        table = self.panel.shelf.table(str(message.get("step") or FINAL))
        return {
            "columns": column_summaries(table.records, table.columns),
            "version": table.version,
        }

    def _record(self, message: Message) -> dict[str, Any]:
        panel = self.panel
        row = message.get("row")
        if row is None:
            trace = panel.last_trace
            if trace is None:
                raise ValueError("no record has been run alone")
            info = None if trace.result is None else trace.result.info
            return trace_detail(trace, f"record {trace.index}", info)
        table = panel.shelf.table(str(message.get("step") or FINAL))
        if row >= len(table):
            part, error = table.failed[row - len(table)]
            result = panel.shelf.results[part] if table.name == FINAL else None
            owner = result if result is not None else self._owner(error.step, part)
            return failed_detail(owner, error, f"failed record {error.record}")
        part_result, at = table.place(int(row))
        return row_detail(part_result, at, f"record {row:,} of {formats.cell(table.name, 60)}")

    def _owner(self, step: str, part: int) -> Result:
        """The Result whose step this is: number `part` among those that came so far."""
        found = [r for r in self.panel.shelf.results if any(s.name == step for s in r.info.steps)]
        return found[part]

    def _cell(self, message: Message) -> dict[str, Any]:
        table = self.panel.shelf.table(str(message.get("step") or FINAL))
        row = int(message["row"])
        n = len(table)
        record = table.records[row] if row < n else table.failed[row - n][1].input
        return {"text": cell_detail(record, str(message["column"]))}

    def _cost(self, _: Message) -> dict[str, Any]:
        going = self.panel.going
        if going is not None:
            ledger = going.ledger
            ledger.prices = "So far, of the run that goes on."
        else:
            ledger = self.panel.shelf.ledger
        return board.cost_state(ledger.lines, ledger.total, self.panel.estimated, ledger.prices)

    def _graph(self, _: Message) -> dict[str, Any]:
        drafts = self.panel.drafts
        if drafts is None:
            return {"nodes": [], "edges": [], "width": 0, "height": 0}
        return board.graph_state(drafts.compiled, self.panel.steps())

    def _errors(self, _: Message) -> dict[str, Any]:
        going = self.panel.going
        if going is not None:
            return {"groups": error_groups(going.errors, None)}
        table = self.panel.shelf.table(FINAL)
        return {"groups": error_groups([e for _, e in table.failed], len(table))}

    def _code(self, message: Message) -> dict[str, Any]:
        panel, what = self.panel, str(message.get("what") or "pipeline")
        if what == "view":
            name = "" if panel.looking.step == FINAL else repr(panel.looking.step)
            return {"code": f"df = panel.frame({name})\n{panel.looking.code}"}
        code = pipeline_code(panel.pipeline)
        if what == "run":
            return {"code": f"{code}\n{call_code('result = pipeline.run', self.asker.arguments())}"}
        return {"code": code}

    # Drafts.

    def _edit(self, message: Message) -> None:
        drafts = self.panel.drafts
        if drafts is None:
            raise ValueError("this Result came from no run, so it has no prompt to edit")
        step = str(message.get("step") or self.panel.controls["step"])
        edits = {k: message[k] for k in EDITED if k in message}
        drafts.set(step, edits)
        if step == self.panel.controls["step"]:
            settings = drafts.settings(step)
            self.panel.controls.update({k: settings[k] for k in ("model", "temperature", "n")})

    def _drafted(self, message: Message) -> dict[str, Any]:
        drafts = self.panel.drafts
        assert drafts is not None
        step = str(message.get("step") or self.panel.controls["step"])
        record = self.entering(step)
        self._renew_draft(step, record)
        if message.keys() & set(EDITED):
            self.estimate_again()
        self.panel._wake()
        return {
            "unknown": drafts.unknown(step, record),
            "rendered": drafts.rendered(step, record),
            "estimate": self.panel.estimate,
        }

    def _drop(self, _: Message) -> None:
        drafts = self.panel.drafts
        if drafts is not None:
            drafts.drop()
            step = self.panel.controls["step"]
            if step is not None:
                settings = drafts.settings(step)
                self.panel.controls.update({k: settings[k] for k in ("model", "temperature", "n")})
            self._renew_draft()
            self.estimate_again()
            self.panel._wake()

    def draft_state(self) -> dict[str, Any] | None:
        """Prompt and settings of the selected step as they are edited; None: nothing to edit."""
        return self._draft

    def _renew_draft(self, step: str | None = None, record: Record | None = None) -> None:
        drafts = self.panel.drafts
        step = step or self.panel.controls["step"]
        if drafts is None or step is None:
            return
        settings = drafts.settings(step)
        self._draft = {
            "step": step,
            **{k: settings[k] for k in ("prompt", "system", "model", "temperature")},
            "unknown": drafts.unknown(step, record),
            "changed": drafts.is_changed,
        }

    def entering(self, step: str) -> Record | None:
        """A record as it enters a step: the one that the record control names, or the last."""
        drafts, panel = self.panel.drafts, self.panel
        assert drafts is not None
        node = drafts.node(step)
        if node.before is None:
            return None
        at = int(panel.controls["record"] or 0)
        parts = panel.shelf.parts
        mine = next((p for p in parts if p.key == at), None) or (parts[-1] if parts else None)
        try:
            if mine is not None and mine.result._info is not None:
                records = mine.result.at(node.before.name)
                if mine.key == at:  # a run of one has that record alone
                    return records[0] if len(records) else None
                found_at = row_of(mine.result, node.before.name, at)
                if found_at is not None:
                    return records[found_at]
            before = Pipeline._of(node.before.node)
            found = before.preview(at + 1) if self._may_look() else []  # the first few
            return found[at] if at < len(found) else None
        except Exception:  # of a user's function, of a source that is gone
            return None

    # What is known before a run.

    def estimated_dollars(self) -> dict[str, float]:
        """Step → likely dollars of the next run, as far as they are known."""
        steps = () if self._estimate is None else self._estimate.steps
        return {s.name: s.estimated_cost for s in steps if s.models}

    def opened(self) -> None:
        """The panel is shown for the first time."""
        panel = self.panel
        if panel.drafts is not None:
            if not panel.shelf.parts:
                panel.look.put(self._preview)
            self.estimate_again()

    def _may_look(self) -> bool:
        """Free steps may be run for looking."""
        drafts = self.panel.drafts
        if options.preview_on_display == "auto":
            return True
        return drafts is not None and not any(calls_user_code(s) for s in drafts.compiled.steps)

    def _preview(self) -> None:
        pipeline = self.panel.pipeline
        if options.preview_on_display == "off":
            return
        try:
            made = preview_of(
                pipeline,
                pipeline.compile(),
                PREVIEWED,
                no_functions=options.preview_on_display == "safe",
                deadline=time.monotonic() + options.preview_seconds,
                kept=pipeline._kept,
            )
        except Exception:  # the static display beside the panel says why
            return
        if not self.panel.shelf.parts:
            self.panel.shelf.preview(made)
            self.panel._wake()

    def estimate_again(self) -> None:
        """Something changed that decides calls or dollars; the newest change counts."""
        if self.panel.drafts is None:
            return
        serial = self._serial("estimate")
        self._estimate = self.panel.estimate = None  # a price of other controls is none
        if not self.panel.runs.is_busy:  # else at the end
            if self.panel.poll:
                self._estimate_now(serial)
            else:
                self.panel.figures.put(lambda: self._estimate_now(serial))

    def _estimate_now(self, serial: int) -> None:
        panel = self.panel
        if self._is_overtaken("estimate", serial) or not self._may_look():
            return
        try:
            pipeline, limit = panel.pipeline, panel.controls["limit"]
            compiled = pipeline.compile()
            llm = [i for i, s in enumerate(compiled.steps) if isinstance(s, LLMStep)]
            n = panel.controls["n_records"]
            size = limit if limit is not None else n
            settings = RunSettings(limit=limit, in_flight=panel.controls["concurrency"])
            made: Any = None
            if not llm or (size is not None and size <= EXACT):
                made = pipeline.estimate(limit=limit, max_concurrent=settings.in_flight)
            else:
                made = bounded_estimate(pipeline, compiled, settings, llm[-1])
            entering = next((s.records_in for s in made.steps if s.models), None) if made else None
            n_records = None if entering is None or math.isnan(entering) else round(entering)
            found = (
                {"text": "not estimated: the steps before the model take too long"}
                if made is None
                else board.estimate_state(made, n_records)
            )
        except Exception as exc:
            made, found = None, {"text": f"not estimated: {formats.error_text(exc)}"}
        if not self._is_overtaken("estimate", serial):
            self._estimate = made
            panel.estimate = {**_UNKNOWN, **found}
            panel._wake()


def _refusal(n: Any, error: Exception) -> dict[str, Any]:
    title, words = said_of(error)
    plain = title in ("ValueError", "IndexError", "DatafastError")
    return {"id": n, "ok": False, "error": words if plain else f"{title}: {words}"}


_UNKNOWN: dict[str, Any] = {
    "records": None, "calls": None, "new": None, "memo": 0, "low": None, "likely": None,
    "high": None, "seconds": None, "exact": False, "text": "", "notes": [],
}  # fmt: skip


def _control(name: str, value: Any, controls: Mapping[str, Any]) -> Any:
    """A control's value, checked. Raises ValueError."""
    if name in ("model", "temperature"):
        return value  # a draft checks them
    if name == "step":
        if value not in controls["llm_steps"]:
            raise ValueError(
                f"no LLM step {value!r}; there are: {', '.join(controls['llm_steps'])}"
            )
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "budget":
        if value is not None and not (is_number and value >= 0 and math.isfinite(value)):
            raise ValueError(f"the budget is US dollars of 0 or more, not {value!r}")
        return value
    if name not in ("limit", "record", "n", "concurrency"):
        raise ValueError(f"no control {name!r}")
    if name == "limit" and value is None:
        return None
    least = 0 if name in ("limit", "record") else 1
    if not is_number or value != int(value) or value < least:
        raise ValueError(f"{name} is a whole number from {least} up, not {value!r}")
    return int(value)
