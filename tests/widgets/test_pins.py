"""Pins are of records: they stay where the table is another."""

from __future__ import annotations

import datafast_nb as dfn
from datafast_nb.widgets.pins import Pins
from datafast_nb.widgets.shelf import Part, Shelf

ROWS = [{"id": i, "text": f"text {i}"} for i in range(8)]


def made(prompt: str = "Ask: {text}", **arguments: object) -> dfn.Result:
    step = dfn.LLMStep(prompt=prompt, output_columns=["answer"], model=dfn.FakeModel())
    pipeline = dfn.Source.list(ROWS) >> dfn.Filter(lambda r: r["id"] != 2) >> step.as_step("ask")
    return pipeline.run(**arguments)


def test_pins_follow_their_records_through_runs_of_many_and_of_few() -> None:
    shelf = Shelf()
    pins = Pins(shelf, known_places=False)
    whole = made()
    shelf.show([Part(whole)])
    pins.set(1, on=True)
    pins.set(5, on=True)
    assert pins.rows() == [1, 5]
    assert [whole[row]["id"] for row in pins.rows()] == [1, 6]

    shelf.show([Part(whole[5:]), Part(whole[:2])])  # other rows for the same records
    assert pins.rows() == [3, 0]
    pins.set(3, on=False)
    assert pins.rows() == [0]
    shelf.show([Part(whole[:3])])
    assert pins.rows() == []
    shelf.show([Part(made("Explain {text}"))])
    assert pins.rows() == [5], "it is pinned still"


def test_a_record_is_pinned_once() -> None:
    shelf = Shelf()
    pins = Pins(shelf, known_places=False)
    shelf.show([Part(made())])
    pins.set(4, on=True)
    pins.set(4, on=True)
    assert pins.rows() == [4]
    pins.set(4, on=False)
    assert pins.rows() == []


def test_a_row_that_cannot_be_followed_back_is_pinned_until_the_table_changes() -> None:
    shelf = Shelf()
    pins = Pins(shelf, known_places=False)
    shelf.show([Part(dfn.Result(ROWS))])
    pins.set(3, on=True)
    assert pins.rows() == [3]
    assert pins.record(3) is None
    shelf.show([Part(dfn.Result(ROWS))])
    assert pins.rows() == []


def test_rows_of_a_preview_are_records_of_the_source() -> None:
    step = dfn.LLMStep(prompt="Ask: {text}", output_columns=["answer"], model=dfn.FakeModel())
    pipeline = dfn.Source.list(ROWS) >> step.as_step("ask")
    panel = pipeline.panel()
    panel.shelf.preview(pipeline.preview(5))
    panel.pins.set(2, on=True)
    assert panel.pins.record(2) == 2
    panel.shelf.show([Part(pipeline.run())])
    assert panel.state()["pins"] == [2]
