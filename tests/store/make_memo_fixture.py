"""Makes the stored memo of today's format, once for each format: `make_memo_fixture.py FOLDER`.

Later versions must read it (`test_stored_formats.py`): never make the folder of a format anew,
add one for the next format.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datafast_nb as dfn
from datafast_nb.store.memo import Reply, open_memo

IDENTITY = {"provider": "openai", "endpoint": "", "model": "gpt-fixture"}
REPLIES: list[tuple[str, str, Reply]] = [
    ("a" * 64, "row1.0", Reply("plain", "usable", created=1_700_000_000.5)),
    ("a" * 64, "row2.0", Reply("", "refused", "the model refused", "stop", created=1.7e9)),
    ("a" * 64, "row2.0", Reply("asked again", "usable", attempts=2, latency_s=0.25)),
    ("a" * 64, "~", Reply("é 漢 \x00 \U0001f600 \u202e", "usable", model="gpt-fixture-2026")),
    ("b" * 64, "row1-1:3-2.0.g2", Reply('{"q": "cut', "cut", "at max_tokens", "length")),
    ("b" * 64, "long.0", Reply("long " * 900, "usable", "", "stop", 12, 900, 4)),
]


def pipeline(model: Any) -> Any:
    """What a run asked of it; `expected.json` has its records."""
    rows = [{"id": i, "text": t} for i, t in enumerate(["red", "green", "red"])]
    return (
        dfn.Source.list(rows)
        >> dfn.LLMStep("A question on {text}", output_columns=["q"], model=model, num_outputs=2)
        >> dfn.LLMStep(
            "Answer {q}", output_columns={"a": str, "n": int}, model=model, temperature=0
        )
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    dfn.options.home = folder
    n = [0]

    def answer(request: Any) -> str:
        n[0] += 1
        asked = request.messages[-1]["content"]
        return json.dumps({"a": asked, "n": n[0]}) if request.schema else f"{asked}? ({n[0]})"

    result = pipeline(dfn.FakeModel(answer, name="fixture")).run(
        max_concurrent=1, show_progress=False
    )
    memo = open_memo()
    for key, label, reply in REPLIES:
        memo.put(key, label, reply, identity=IDENTITY, done=lambda error: None)
    memo.link("a" * 64, "row3.0", "row1.0")
    memo.flush()
    memo.set_meta("figures", {"a": [1, None, 2.5]})
    memo.close()
    expected = {
        "records": [dict(r) for r in result],
        "replies": [[key, label, asdict(reply)] for key, label, reply in REPLIES],
        "link": ["a" * 64, "row3.0", "row1.0"],
        "meta": {"figures": {"a": [1, None, 2.5]}},
        "calls": n[0],
    }
    for name in (".gitignore", "lock.db"):  # a repository is to hold the rest
        (folder / "memo" / name).unlink()
    text = json.dumps(expected) + "\n"
    (folder / "expected.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
