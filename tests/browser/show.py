"""A notebook that shows every kind of display, run for real on scripted models."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HOSTILE = (
    "<img src=x onerror=window.hit=1>",
    "<script>window.hit=2</script>",
    "</td></tr></table></details><h1 onclick=window.hit=3>out</h1>",
    '"><svg onload=window.hit=4>',
    "<style>*{display:none}</style>",
    "[link](javascript:window.hit=5) ![x](http://127.0.0.1:9/leak.png)",
    "$1 and $2 \\(x\\) $$y$$",
    "red\x1b[31m \x1b[2J\u202etxt.exe\u202c",
    "<iframe srcdoc='<script>parent.hit=6</script>'></iframe>",
    "<a href=javascript:window.hit=7 style=position:fixed;inset:0>x</a>",
)

SETUP = """
import datafast_nb as dfn
from datafast_nb import FakeModel, Filter, LLMError, LLMStep, OpenAIModel, Sample, Seed, Sink, Source
from datafast_nb.data import articles

rows = [{**r, "words": len(r["text"].split())} for r in articles()[:24]]
rows[1]["text"] += " Entry costs $1 and $2."

def reply(request):
    asked = request.messages[-1]["content"]
    text = asked.split("\\n")[1]
    if "Black Death" in asked:
        return LLMError("the server said <b>no</b>", kind="bad_request")
    words = text.split(". ")[-1].split()
    if "needs a reason" in asked and len(words) % 3:
        return {"question": f"Why {' '.join(words[:5]).lower()}?", "answer": f"Because {text.split('. ')[0].lower()}."}
    return {"question": f"What does the text say of {' '.join(words[-3:])[:-1]}?", "answer": text.split(". ")[0] + "."}

model = FakeModel(reply, name="scripted", price=(0.15, 0.60))
source = Source.list(rows).as_step("articles")
long_enough = source >> Filter(fn=lambda r: r["words"] >= 40).as_step("long_enough")
ask = LLMStep(prompt="{title} ({topic}):\\n{text}\\n\\nWrite a question a curious reader would ask, and its answer.",
              system_prompt="Use only the article.", output_columns=["question", "answer"], model=model).as_step("ask")
pipe = long_enough >> ask >> Filter(fn=lambda r: len(r["answer"]) > 40).as_step("keep_good")
"""

CELLS = {
    "setup": SETUP,
    "fresh": "pipe",
    "estimate": "pipe.estimate()",
    "problem": (
        'source >> LLMStep(prompt="About {txt}", output_columns=["title"], model=model)'
        ' >> LLMStep(prompt="{title} {scor}", output_columns=["score"], model=model, num_outputs=3, temperature=0)'
    ),
    "result": "res = pipe.run(limit=12, show_progress=False)\nres",
    "answered": "pipe",
    "answered_estimate": "pipe.estimate()",
    "trace": "pipe.run_one(1)",
    "failed_trace": "pipe.run_one(where={'id': 'doc_003'})",
    "why": 'res.why(0, "answer")',
    "funnel": "res.funnel",
    "ledger": "res.ledger",
    "errors": "res.errors",
    "diff": (
        'shorter = LLMStep(prompt="{title} ({topic}):\\n{text}\\n\\nWrite a question that needs a reason, and its answer.",\n'
        '                  system_prompt="Use only the article.", output_columns=["question", "answer"],'
        ' model=model).as_step("ask")\n'
        "dfn.diff((long_enough >> ask).run(limit=6, show_progress=False),"
        " (long_enough >> shorter).run(limit=6, show_progress=False))"
    ),
    "model": 'OpenAIModel("gpt-4o-mini")',
    "seed": 'Seed.product(Seed.values("topic", ["bees", "moon", "tides"]), Seed.values("level", ["easy", "hard"]))',
    "sample": "Sample(n=5)",
    "compiled": "pipe.compile()",
    "memo": "dfn.memo",
    "run": "run = pipe.start(limit=2); run.result(); run",
    "graph": "pipe.graph()",
    "visualize": "pipe.visualize()",
    "hostile": (
        f"bad = {list(HOSTILE)!r}\n"
        "worse = FakeModel(lambda r: LLMError(bad[0], kind='bad_request')"
        " if 'nr 2' in r.messages[-1]['content'] else bad[2], name=bad[0])\n"
        "spite = Source.list([{'n': f'nr {i}', 'text': b, b: bad} for i, b in enumerate(bad)]).as_step(bad[1])"
        " >> LLMStep(prompt='{n} {text}', output_columns=['out' + bad[4]], model=worse).as_step(bad[3])\n"
        "spite"
    ),
    "hostile_result": "spite.run(show_progress=False)",
    "hostile_trace": "spite.run_one(0)",
    "hostile_model": "worse",
}


def make(folder: Path, name: str = "displays.ipynb") -> Path:
    """Run the notebook in `folder`, a project of its own, and write it with its outputs."""
    cells = []
    for key, source in CELLS.items():
        cell = nbformat.v4.new_code_cell(source)
        cell["id"] = key
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    (folder / "pyproject.toml").touch()
    os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
    path = folder / name
    home = os.environ.pop("DATAFAST_NB_HOME", None)
    try:
        NotebookClient(
            notebook, timeout=120, resources={"metadata": {"path": str(folder)}}
        ).execute()
    finally:
        if home is not None:
            os.environ["DATAFAST_NB_HOME"] = home
    nbformat.write(notebook, path)
    return path
