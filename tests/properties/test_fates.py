"""Random fault scripts: every record's fate is the one that the rules say, and they add up."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from properties import faulty_models as faulty
from properties.scale import many

FAULTS = [*faulty.RETRIED, *faulty.REFUSED_AT_ONCE, *faulty.UNUSABLE]
SCRIPTS = st.lists(
    st.lists(st.sampled_from([*FAULTS, "good", "good"]), max_size=6), min_size=1, max_size=12
)
HOW = st.fixed_dictionaries(
    {
        "max_retries": st.integers(0, 4),
        "on_error": st.sampled_from(["skip", "retry"]),
    }
)


class Case:
    """Records, some filtered, a faulty model asked about the rest."""

    def __init__(self, scripts: list[list[str]], **how: Any) -> None:
        self.how = how
        self.scripts = {f"ask {i}": script for i, script in enumerate(scripts)}
        self.model = faulty.ScriptedModel(self.scripts)
        self.rows = [{"id": i} for i in range(2 * len(scripts))]
        self.fates = {
            i: faulty.fate_of(script, max_retries=how["max_retries"], on_error=how["on_error"])
            for i, script in enumerate(scripts)
        }

    def pipeline(self) -> dfn.Pipeline:
        n = len(self.scripts)
        return (
            dfn.Source.list(self.rows)
            >> dfn.Filter(lambda r: r["id"] < n).as_step("keep")
            >> dfn.LLMStep(
                "ask {id}",
                output_columns=["a", "b"],
                model=self.model,
                retry_delay=0.0,
                **self.how,
            ).as_step("ask")
        )

    def run(self, in_flight: int) -> dfn.Result:
        """The result; a run that lost every record raises, as it must."""
        lost = all(fate.verdict != "usable" for fate in self.fates.values())
        if not lost:
            return self.pipeline().run(max_concurrent=in_flight, show_progress=False)
        with pytest.raises(dfn.LLMError, match="step 'ask' lost every record") as caught:
            self.pipeline().run(max_concurrent=in_flight, show_progress=False)
        assert caught.value.result.status == "failed"
        return caught.value.result


def check(case: Case, result: dfn.Result) -> None:
    good = [i for i, fate in case.fates.items() if fate.verdict == "usable"]
    bad = {i: fate.verdict for i, fate in case.fates.items() if fate.verdict != "usable"}
    assert [r["id"] for r in result] == good, "in order, none twice, none missing"
    assert all(r["a"] == "fine" and r["b"] == "too" for r in result)
    told = [(e.step, e.record, e.input["id"], e.kind) for e in result.errors]
    assert told == [("ask", i, i, verdict) for i, verdict in sorted(bad.items())]
    assert all(e.error and e.prompt == f"ask {e.record}" for e in result.errors)
    source, keep, ask = result.info.steps
    assert source.n_out == keep.n_in == len(case.rows)
    assert (keep.fates.filtered, keep.n_out) == (len(case.rows) - len(case.fates), len(case.fates))
    assert ask.n_in == ask.fates.advanced + ask.fates.failed == len(good) + len(bad)
    assert ask.n_out == ask.fates.advanced == len(good)
    asked = {f"ask {i}": fate.n_asked for i, fate in case.fates.items()}
    assert dict(case.model.asked) == asked, "attempts are what the one budget allows"
    total = result.ledger.total
    assert (total.new, total.failed) == (len(case.fates), len(bad))
    given_out = Counter(name for names in case.model.given.values() for name in names)
    replies = len(good) + sum(given_out[name] for name in faulty.UNUSABLE)
    lost = sum(given_out[name] for name in ("timeout", "reset", "too_large"))
    known = replies * 10e-6
    assert total.paid_usd >= known - 1e-9, "every reply is on the bill"
    assert total.paid_usd <= known + lost * 3_000e-6 + 1e-9, "what was lost is there with its bound"
    assert lost or total.paid_usd == pytest.approx(known)


@settings(max_examples=many(120, 3_000))
@given(scripts=SCRIPTS, how=HOW, in_flight=st.integers(1, 6))
def test_the_fate_of_each_record_is_the_one_its_faults_lead_to(
    new_home: Any, scripts: list[list[str]], how: dict[str, Any], in_flight: int
) -> None:
    new_home()
    case = Case(scripts, **how)
    check(case, case.run(in_flight))


@settings(max_examples=many(80, 1_500))
@given(scripts=SCRIPTS, how=HOW, in_flight=st.integers(1, 6), more=SCRIPTS)
def test_retry_failed_asks_the_failed_ones_alone(
    new_home: Any,
    scripts: list[list[str]],
    how: dict[str, Any],
    in_flight: int,
    more: list[list[str]],
) -> None:
    new_home()
    case = Case(scripts, **how)
    first = case.run(in_flight)
    failed = [e.record for e in first.errors]
    assume(failed)
    before = Counter(case.model.asked)
    again = {f"ask {i}": more[i % len(more)] for i in failed}
    # What comes after the script so far is the second try's.
    for text, script in again.items():
        case.scripts[text][:] = case.scripts[text][: before[text]]
        case.scripts[text] += ["good"] * (before[text] - len(case.scripts[text])) + script
    lost = not first and all(
        faulty.fate_of(script, **how).verdict != "usable" for script in again.values()
    )
    if lost:
        with pytest.raises(dfn.LLMError, match="lost every record") as caught:
            first.retry_failed()
        second = caught.value.result
    else:
        second = first.retry_failed()
    asked = {text: n for text, n in (case.model.asked - before).items() if n}
    wanted = {text: faulty.fate_of(script, **how).n_asked for text, script in again.items()}
    assert asked == wanted
    mended = {i for i in failed if faulty.fate_of(again[f"ask {i}"], **how).verdict == "usable"}
    usable = {i for i, fate in case.fates.items() if fate.verdict == "usable"}
    assert [r["id"] for r in second] == sorted(usable | mended)
    assert [e.record for e in second.errors] == sorted(set(failed) - mended)
    third = Counter(case.model.asked)
    if not lost:
        repeated = case.pipeline().run(show_progress=False)
        open_still = set(failed) - mended  # what left no reply is asked by any run
        assert [r for r in repeated if r["id"] not in open_still] == list(second)
        assert {int(text.split()[1]) for text in case.model.asked - third} <= open_still


@settings(max_examples=many(80, 1_500))
@given(
    scripts=SCRIPTS,
    how=HOW,
    in_flight=st.integers(1, 6),
    fatal=st.sampled_from(sorted(faulty.FATAL)),
    where=st.integers(0, 11),
)
def test_a_fatal_fault_stops_the_run_and_a_second_one_pays_for_the_rest_alone(
    new_home: Any,
    scripts: list[list[str]],
    how: dict[str, Any],
    in_flight: int,
    fatal: str,
    where: int,
) -> None:
    new_home()
    where %= len(scripts)
    scripts = [[f for f in script if f in ("good", "500")] for script in scripts]
    scripts[where] = [*scripts[where][:1], fatal]
    case = Case(scripts, **how)
    if faulty.FATAL[fatal] != case.fates[where].verdict:
        assume(False)
    with pytest.raises(dfn.LLMError) as caught:
        case.pipeline().run(max_concurrent=in_flight, show_progress=False)
    assert caught.value.kind == faulty.FATAL[fatal]
    result = caught.value.result
    ask = result.info.steps[-1]
    assert ask.fates.total == ask.n_in
    assert sum(names.count(fatal) for names in case.model.given.values()) == 1
    finished = [r["id"] for r in result]
    failed = [e.record for e in result.errors]
    assert finished == sorted(set(finished)) and not set(finished) & set(failed)
    assert where not in finished
    answered = {t for t, names in case.model.given.items() if "good" in names}
    assert {f"ask {i}" for i in finished} == answered, "every answer that came is in the result"
    case.pipeline().run(max_concurrent=in_flight, show_progress=False)
    goods = {t: names.count("good") for t, names in case.model.given.items()}
    assert all(n <= 1 for n in goods.values()), "no answer is paid twice"
