"""The bill of a run where prices are not known."""

from __future__ import annotations

import math

from datafast_nb import FakeModel, LLMError, LLMStep, Source
from datafast_nb.models.base import Response, Usage


def run_unpriced(answers):
    """A run of two records by a model whose price nobody lists."""
    model = FakeModel(answers, name="house-model", provider="house")
    step = LLMStep(prompt="{n}", output_columns=["said"], model=model, retry_delay=0.0)
    return (Source.list([{"n": 1}, {"n": 2}]) >> step.as_step("ask")).run(max_concurrent=1)


def test_good_replies_of_unknown_price_waste_nothing():
    result = run_unpriced("fine")
    assert math.isnan(result.ledger.paid_usd)
    assert result.ledger.wasted_usd == 0
    assert "wasted unknown" not in str(result)
    assert not result.calls["wasted_usd"].any()


def test_an_unusable_reply_of_unknown_price_is_waste_of_unknown_size():
    refused = Response("No.", finish="refused", usage=Usage(3, 1))
    ledger = run_unpriced([refused, "fine"]).ledger
    assert math.isnan(ledger.wasted_usd)
    assert ledger.total.unusable == 1


def test_a_lost_reply_of_unknown_price_is_waste_of_unknown_size():
    lost = LLMError("no reply in time", kind="timeout", maybe_billed=True)
    assert math.isnan(run_unpriced([lost, "fine"]).ledger.wasted_usd)


def test_a_call_that_was_turned_away_wastes_nothing():
    turned_away = LLMError("slow down", kind="rate_limited", status=429)
    assert run_unpriced([turned_away, "fine"]).ledger.wasted_usd == 0
