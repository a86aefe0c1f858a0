"""Two calls never share a draw because one of them has been stored and not yet taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import datafast_nb as dfn
from datafast_nb.store.memo import Memo, Reply


def test_a_draw_that_is_stored_and_on_its_way_is_not_given_to_a_sibling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Siblings ask the same, and the second is planned while the first one's answer is stored."""
    real = Memo.put

    def put(
        self: Memo, key: str, label: str, reply: Reply, *, done: Callable[..., None], **kw: Any
    ) -> None:
        # The second sibling is planned for "b" when the first one's answer is stored there, and
        # the engine has not heard of it.
        wait_s = 0.0
        if reply.text != "same":
            wait_s = 0.4 if label.endswith(".1") else 0.1 if ":" in label else 0.0

        def late(error: BaseException | None) -> None:
            threading.Timer(wait_s, done, (error,)).start()

        real(self, key, label, reply, done=late if wait_s else done, **kw)

    monkeypatch.setattr(Memo, "put", put)
    n = 3

    def answer(request: Any) -> str:
        asked = request.messages[-1]["content"]
        return "same" if asked.startswith("ask") else f"draw {model.calls}"

    model = dfn.FakeModel(answer)
    pipeline = (
        dfn.Source.list([{"text": f"fact {i}"} for i in range(n)])
        >> dfn.LLMStep("ask {text}", output_columns=["q"], model=model, num_outputs=2)
        >> dfn.LLMStep("again {q} {text}", output_columns=["a"], model=model)
        >> dfn.LLMStep("again {q} {text}", output_columns=["b"], model=model)
    )
    result = pipeline.run(order="records", max_concurrent=12, show_progress=False)
    draws = [r["a"] for r in result] + [r["b"] for r in result]
    assert len(draws) == 4 * n
    assert len(set(draws)) == 4 * n, "two calls got one draw"
    assert model.calls == 6 * n
