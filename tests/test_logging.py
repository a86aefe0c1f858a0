"""What the package logs, at which level, with which fields; and what it never does."""

from __future__ import annotations

import io
import json
import logging
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.logs import FIELDS, JsonFormatter, logger, tell
from datafast_nb.models.base import Request

PROMPT = "Aconcagua"
REPLY = "Denali"
STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, event: str) -> list[logging.LogRecord]:
        return [r for r in self.records if getattr(r, "event", None) == event]


@pytest.fixture
def kept() -> Iterator[Keep]:
    handler = Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in vars(record).items() if k not in STANDARD}


def pipeline_of(model: Any, n: int = 4, **settings: Any) -> dfn.Pipeline:
    step = dfn.LLMStep(
        f"{PROMPT} {{n}}", output_columns=["a"], model=model, retry_delay=0.001, **settings
    )
    source = dfn.Source.list([{"n": i} for i in range(n)]) >> dfn.Filter(lambda r: r["n"] != 1)
    return source >> step.as_step("ask")


def moody(request: Request) -> str:
    prompt = request.messages[0]["content"]
    if prompt.endswith("2"):
        raise dfn.LLMError(f"no {REPLY} today", kind="bad_request", status=400)
    return f"{REPLY} {prompt[-1]}"


def test_runs_and_steps_are_told_at_info_with_their_counts(kept):
    result = pipeline_of(dfn.FakeModel(REPLY)).run()
    told = [r for r in kept.records if r.levelno >= logging.INFO]
    assert {r.levelname for r in told} == {"INFO"} and len(result) == 3
    (begun,), (ended,) = kept.of("run_started"), kept.of("run_finished")
    assert begun.steps == ("step_001_source", "step_002_filter", "ask")
    assert (ended.status, ended.n_out) == ("complete", 3)
    (step,) = [r for r in kept.of("step_finished") if r.step == "ask"]
    assert (step.index, step.n_in, step.n_out) == (2, 3, 3)
    assert [r.step for r in kept.of("step_started")][-1] == "ask"
    (run,) = {r.run for r in kept.records}
    assert len(run) >= 8


def test_each_attempt_is_told_at_debug_with_model_record_tokens_and_dollars(kept):
    model = dfn.FakeModel(REPLY, price=(1.0, 2.0))
    result = pipeline_of(model).run()
    told = kept.of("attempt")
    assert {r.levelname for r in told} == {"DEBUG"}
    assert sorted(r.record for r in told) == [0, 1, 2]
    assert {(r.step, r.model, r.provider, r.verdict, r.attempt) for r in told} == {
        ("ask", model.name, model.provider, "usable", 1)
    }
    assert sum(r.usd for r in told) == pytest.approx(result.ledger.total.paid_usd)
    assert sum(r.usd for r in told) > 0
    assert all(r.input_tokens > 0 and r.output_tokens > 0 and r.latency_s >= 0 for r in told)


def test_attempts_that_fail_say_why_and_are_as_many_as_the_server_saw(kept):
    with StubServer(faults={1: "429_ms:5", 2: "500", 3: "reset_before"}) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url, price=(1.0, 2.0))
        pipeline_of(model, n=1, max_retries=5).run()
        told = kept.of("attempt")
        assert len(told) == stub.n_requests == 4
    assert [r.verdict for r in told] == ["rate_limited", "server", "connection", "usable"]
    assert [r.attempt for r in told] == [1, 2, 3, 4]
    assert [getattr(r, "status", None) for r in told] == [429, 500, None, None]
    assert told[0].retry_after_s == pytest.approx(0.005)
    assert all("stub" in r.error or "127.0.0.1" in r.error for r in told[:3])
    assert told[2].maybe_billed is True and told[2].usd > 0


def test_lost_records_are_a_warning_for_each_kind_of_loss(kept):
    result = pipeline_of(dfn.FakeModel(moody), n=5).run()
    assert len(result) == 3
    (warning,) = [r for r in kept.records if r.levelno >= logging.WARNING]
    assert warning.levelname == "WARNING" and warning.event == "records_lost"
    assert (warning.step, warning.verdict) == ("ask", "bad_request")
    assert (warning.n_records, warning.records) == (1, [1])


def test_losses_that_a_later_run_finds_on_disk_are_told_again(kept):
    pipeline = pipeline_of(dfn.FakeModel(["Sure, gladly!"]), n=2).steps
    step = dfn.LLMStep(
        PROMPT, output_columns={"a": int}, model=dfn.FakeModel(lambda r: "none"), max_retries=0
    ).as_step("count")
    flow = pipeline[0] >> step
    for _ in range(2):
        with pytest.raises(dfn.LLMError):
            flow.run()
    lost = kept.of("records_lost")
    assert [r.n_records for r in lost] == [2, 2] and len({r.run for r in lost}) == 2
    assert [r.levelname for r in kept.of("run_finished")] == ["WARNING", "WARNING"]


def test_a_run_that_stops_early_and_what_was_left_out_are_warnings(kept):
    model = dfn.FakeModel(REPLY, price=(1.0, 2.0))
    with pytest.raises(dfn.BudgetExceededError):
        pipeline_of(model, n=9).run(max_calls=2)
    (ended,) = kept.of("run_finished")
    assert (ended.levelname, ended.status) == ("WARNING", "budget")
    pipeline = dfn.Source.list([{"n": (1, 2)}]) >> dfn.LLMStep(
        "{n}", output_columns=["a"], model=dfn.OpenAIModel("o3", api_key="k" * 9, base_url="http://127.0.0.1:9/v1"),
        temperature=0.3, max_retries=0,
    )  # fmt: skip
    with pytest.raises(dfn.LLMError):
        pipeline.run()
    notes = kept.of("note")
    assert notes and {r.levelname for r in notes} == {"WARNING"}
    assert any("temperature" in r.getMessage() for r in notes)


def test_words_of_prompts_and_replies_are_in_no_record_above_debug(kept):
    pipeline = pipeline_of(dfn.FakeModel(moody), n=6)
    result = pipeline.run(show_progress=False)
    with pytest.raises(dfn.LLMError):
        pipeline_of(dfn.FakeModel(moody), n=7, on_error="raise").run()
    assert len(result) == 4 and any(PROMPT in (e.prompt or "") for e in result.errors)
    for record in kept.records:
        shown = f"{record.getMessage()} {fields(record)}"
        assert PROMPT not in shown, "prompts are in no record at all"
        if record.levelno > logging.DEBUG:
            assert REPLY not in shown
    assert any(REPLY in str(fields(r)) for r in kept.of("attempt")), "errors are, at DEBUG"


def test_previews_estimates_and_displays_log_nothing(kept):
    pipeline = pipeline_of(dfn.FakeModel(REPLY))
    pipeline.preview()
    pipeline.estimate()
    pipeline._repr_mimebundle_()
    assert kept.records == []
    pipeline.run()
    n = len(kept.records)
    pipeline.estimate()
    assert n > 5 and len(kept.records) == n


def test_the_run_has_the_name_that_the_ledger_has(kept):
    pipeline_of(dfn.FakeModel(REPLY, price=(1.0, 2.0))).run()
    assert {r.run for r in kept.records} == {line.run for line in dfn.ledger()}


def test_every_field_is_documented_and_none_hides_one_of_logging(kept):
    with StubServer(faults={1: "429_ms:5"}) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url, price=(1.0, 2.0))
        pipeline_of(model).run()
    pipeline_of(dfn.FakeModel(moody), n=5).run()
    used = {name for record in kept.records for name in fields(record)}
    assert used <= set(FIELDS) and not set(FIELDS) & STANDARD
    assert {"event", "run", "step", "model", "record", "attempt", "usd"} <= used
    assert all(v is not None and v == v for r in kept.records for v in fields(r).values())


def test_json_lines_hold_message_and_fields():
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    level = logger.level
    try:
        pipeline_of(dfn.FakeModel(REPLY, price=(1.0, 2.0)), n=3).run(log_level="debug")
        try:
            raise ValueError("odd é")
        except ValueError:
            logger.exception("with %s", "a traceback")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert Counter(line.get("event") for line in lines)["attempt"] == 2
    attempt = next(line for line in lines if line.get("event") == "attempt")
    assert attempt["level"] == "DEBUG" and attempt["logger"] == "datafast_nb"
    assert attempt["step"] == "ask" and attempt["usd"] > 0 and attempt["time"].endswith("+00:00")
    assert lines[-1]["message"] == "with a traceback" and "odd é" in lines[-1]["traceback"]


def test_log_level_of_a_run_counts_and_a_bad_one_is_refused(kept):
    logger.setLevel(logging.WARNING)
    pipeline = pipeline_of(dfn.FakeModel(REPLY))
    pipeline.run()
    assert kept.records == []
    pipeline.run(log_level="INFO")
    assert {r.levelname for r in kept.records} == {"INFO"}
    with pytest.raises(dfn.DatafastError, match=r"'LOUD'.*'DEBUG', 'INFO'"):
        pipeline.run(log_level="LOUD")


def test_a_filter_that_raises_costs_no_answer(kept):
    def broken(record: logging.LogRecord) -> bool:
        raise RuntimeError("odd filter")

    logger.addFilter(broken)
    try:
        model = dfn.FakeModel(REPLY)
        assert len(pipeline_of(model).run()) == 3 and model.calls == 3
    finally:
        logger.removeFilter(broken)


def test_unknown_figures_are_left_out(kept):
    tell(logging.INFO, "100 % sure", usd=math.nan, step=None, n_in=0)
    (record,) = kept.records
    assert fields(record) == {"n_in": 0} and record.getMessage() == "100 % sure"


def test_the_package_installs_one_silent_handler_and_changes_no_other():
    code = """
import logging, datafast_nb as dfn
before = list(logging.getLogger().handlers), logging.getLogger().level
result = (dfn.Source.list([{"n": 1}, {"n": 2}]) >> dfn.LLMStep(
    "{n}", output_columns=["a"], max_retries=0,
    model=dfn.FakeModel(["fine", dfn.LLMError("no", kind="bad_request")]))).run(show_progress=False)
assert len(result.errors) == 1
logger = logging.getLogger("datafast_nb")
assert [type(h).__name__ for h in logger.handlers] == ["NullHandler"], logger.handlers
assert logger.level == 0 and logger.propagate
assert before == (logging.getLogger().handlers, logging.getLogger().level)
assert "logging.config" not in __import__("sys").modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
