"""What costs money: the panel's Run one, Run, Retry and the draft's run, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from datafast_nb.engine.context import RunSettings
from datafast_nb.engine.events import Event
from datafast_nb.engine.handle import Run
from datafast_nb.errors import ConfirmationRequired
from datafast_nb.results import Result
from datafast_nb.store.memo import open_memo
from datafast_nb.widgets.work import said_of

if TYPE_CHECKING:
    from datafast_nb.widgets.panel import Panel

Message = Mapping[str, Any]
Done = list[tuple[Result | None, Result]]
"""Results that a run has made, each with the one that it replaces."""


class Asker:
    """Begins the runs of one panel, after each was claimed, on the panel's own thread."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self._done: Done = []
        self._work = {
            "run": self._run,
            "run_one": self._run_one,
            "retry": self._retry,
            "retry_failed": self._retry_failed,
            "draft_run": self._draft_run,
        }
        self.ops = frozenset(self._work)

    def begin(self, op: str, message: Message) -> dict[str, Any]:
        """Begin what was claimed; {"ask": words} where it is large and was not confirmed."""
        runs = self.panel.runs
        self._done = []
        try:
            if self.panel.drafts is None:
                raise ValueError("this Result came from no run, so nothing can be run")
            self._work[op](message)
        except ConfirmationRequired as exc:
            runs.release()
            return {"ask": _question(exc)}
        except _Unfinished as exc:
            runs.release()
            return {"ask": str(exc)}
        except Exception as exc:
            runs.release(said_of(exc))
            raise
        finally:
            if not runs.is_busy and self.panel.estimate is None:  # changed while it was claimed
                self.panel.desk.estimate_again()
        return {}

    def arguments(self) -> dict[str, Any]:
        """Of `run` and `start`, as the controls stand."""
        controls = self.panel.controls
        return {
            "limit": controls["limit"],
            "budget": controls["budget"],
            "max_concurrent": controls["concurrency"],
        }

    def take_done(self) -> Done:
        """What the run that has ended made."""
        done, self._done = self._done, []
        return done

    def _run(self, message: Message) -> None:
        panel = self.panel
        pipeline = panel.pipeline
        estimated = panel.desk.estimated_dollars()
        # What a draft writes is not what the notebook says: it leaves the files alone.
        sinks: Any = False if panel.drafts is not None and panel.drafts.is_changed else "auto"
        confirmed = bool(message.get("confirmed"))
        panel.begin(lambda: pipeline.start(**self.arguments(), sinks=sinks, confirm=confirmed))
        panel.estimated = estimated

    def _run_one(self, message: Message) -> None:
        record = message.get("record")
        if record is None:
            record = self.panel.controls["record"]
        self._run_records([int(record or 0)])

    def _draft_run(self, message: Message) -> None:
        rows = message.get("rows", "current")
        if rows == "current":
            self._run_records([int(self.panel.controls["record"] or 0)])
            return
        found = dict.fromkeys(self.panel.pins.record(int(row)) for row in rows)
        records = [k for k in found if k is not None]
        if not records:
            raise ValueError("none of these rows can be followed back to a record of the source")
        self._run_records(records)

    def _run_records(self, records: list[int]) -> None:
        """Some records, one after another, each through the whole pipeline."""
        panel = self.panel
        pipeline, controls, done = panel.pipeline, dict(panel.controls), self._done
        pipeline.compile()

        def work(stop: threading.Event, listen: Callable[[Event], None]) -> Result:
            result: Result | None = None
            left = controls["budget"]
            for k in records:
                if result is not None and stop.is_set():
                    break
                settings = RunSettings(
                    sinks=False, one=k, in_flight=controls["concurrency"], budget_usd=left
                )
                one = partial(pipeline._execute, settings, None, [listen], stop)
                result = _kept(done, None, one)
                if left is not None:
                    left = max(0.0, left - result.ledger.paid_usd)
            assert result is not None
            return result

        panel.begin(lambda: Run(work, pipeline=pipeline))

    def _retry_failed(self, message: Message) -> None:
        wanted: list[tuple[Result, dict[str, Any]]] = []
        for result in self.panel.shelf.results:
            spots = frozenset((e.key, e.label) for e in result.errors if e.key)
            if spots:
                wanted.append((result, {"retry": spots}))
        if not wanted:
            lost = any(r.errors for r in self.panel.shelf.results)
            raise ValueError(
                "these calls could not be written: correct the prompt or the records"
                if lost
                else "no call has failed"
            )
        self._ask_again(wanted, message)

    def _retry(self, message: Message) -> None:
        spot = (str(message["key"]), str(message["label"]))
        results = self.panel.shelf.results
        one = self.panel.last_trace
        if one is not None and one.result is not None:
            results.append(one.result)
        for result in results:
            call = next((c for c in result.call_rows if (c.key, c.label) == spot), None)
            if call is None:
                continue
            changes: dict[str, Any] = {"retry": frozenset({spot})}
            if call.status != "failed":  # its answer counts no longer: a new draw
                draw = open_memo().get_many([spot])[0]
                changes["redraw"] = {spot: 0 if draw is None else len(draw.replies)}
            self._ask_again([(result, changes)], message)
            return
        raise ValueError("no such call in what is shown")

    def _ask_again(self, wanted: list[tuple[Result, dict[str, Any]]], message: Message) -> None:
        panel, done = self.panel, self._done
        budget = panel.controls["budget"]
        partial_ones = [r for r, _ in wanted if r.status not in ("complete", "limited")]
        if partial_ones and not message.get("confirmed"):
            raise _Unfinished(partial_ones[0].status)

        def work(stop: threading.Event, listen: Callable[[Event], None]) -> Result:
            made: Result | None = None
            left = budget
            for result, changes in wanted:
                if made is not None and stop.is_set():
                    break
                again = partial(
                    result._ran._again, result, [listen], stop, budget_usd=left, **changes
                )
                made = _kept(done, result, again)
                if left is not None:
                    left = max(0.0, left - made.ledger.paid_usd)
            assert made is not None
            return made

        panel.begin(lambda: Run(work, pipeline=wanted[0][0]._ran))


class _Unfinished(Exception):
    """A run that is asked again in part would go on with the rest too."""

    def __init__(self, status: str) -> None:
        how = "spent its budget" if status == "budget" else f"is not complete ({status})"
        super().__init__(f"This run {how}: asking again goes on with the calls that are left, too.")


def _kept(done: Done, old: Result | None, work: Callable[[], Result]) -> Result:
    """Do it, and keep the Result, also a partial one."""
    try:
        made = work()
    except BaseException as exc:
        result = getattr(exc, "result", None)
        if isinstance(result, Result):
            done.append((old, result))
        raise
    done.append((old, made))
    return made


def _question(exc: ConfirmationRequired) -> str:
    """The words of a question without the line to type: a button stands for it."""
    lines = [line.strip() for line in str(exc).split("\n")]
    return " ".join(x for x in lines if not x.startswith(("To run it", "Or less")))
