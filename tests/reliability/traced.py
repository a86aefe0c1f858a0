"""One run under strace: `traced.py URL FOLDER`. It says in FOLDER/acks what it is told is stored."""

from __future__ import annotations

import sys
from typing import Any

import datafast_nb as dfn
from reliability.lives import tell_acknowledged


def main(url: str, folder: str) -> None:
    dfn.options.home = folder + "/home"
    model = dfn.OpenAICompatibleModel("stub", url)
    tell_acknowledged(folder + "/acks")

    def marked(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "mark": f"used {record['q']}"}

    pipe = (
        dfn.Source.list([{"id": i, "text": f"fact {i:03d}."} for i in range(12)]).as_step("load")
        >> dfn.LLMStep("ask {text}", output_columns=["q"], model=model).as_step("ask")
        >> dfn.Map(marked).as_step("mark")
        >> dfn.LLMStep("again {mark}", output_columns=["a"], model=model).as_step("again")
        >> dfn.Sink.jsonl(folder + "/out.jsonl")
    )
    pipe.run(checkpoint_dir=folder + "/ck", max_concurrent=3, show_progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
