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
from datafast_nb import FakeModel, Filter, FlatMap, LLMError, LLMStep, OpenAIModel, Sample, Seed, Sink, Source

TOPICS = ["Biology", "Physics", "History"]
rows = [
    {"id": f"a{i:02}", "topic": TOPICS[i % 3], "n_words": 8 + 7 * i % 90,
     "text": f"Article {i} costs $1 and $2. " + "An octopus has three hearts and blue blood. " * (1 + i % 9)}
    for i in range(40)
]

def reply(request):
    text = request.messages[-1]["content"]
    if "Article 3 " in text:
        return LLMError("the server said <b>no</b>", kind="bad_request")
    if "Article 5 " in text:
        return "{\\"question\\": \\"only half of it\\"}"
    return {"question": f"What about {len(text)} characters?", "answer": "It has three hearts, " * (len(text) % 7 + 1)}

model = FakeModel(reply, name="scripted", price=(0.15, 0.60))
articles = Source.list(rows).as_step("articles")
long_enough = articles >> Filter(fn=lambda r: r["n_words"] >= 20).as_step("long_enough")
ask = LLMStep(prompt="Article ({topic}):\\n{text}\\n\\nWrite a question a curious reader would ask, and its answer.",
              system_prompt="Use only the article.", output_columns=["question", "answer"], model=model).as_step("ask")
pipe = long_enough >> ask >> Filter(fn=lambda r: len(r["answer"]) > 30).as_step("keep_good")
"""

CELLS = {
    "setup": SETUP,
    "fresh": "pipe",
    "estimate": "pipe.estimate()",
    "problem": (
        'articles >> LLMStep(prompt="About {txt}", output_columns=["title"], model=model)'
        ' >> LLMStep(prompt="{title} {scor}", output_columns=["score"], model=model, num_outputs=3, temperature=0)'
    ),
    "result": "res = pipe.run(limit=12, show_progress=False)\nres",
    "answered": "pipe",
    "answered_estimate": "pipe.estimate()",
    "trace": "pipe.run_one(1)",
    "failed_trace": "pipe.run_one(where={'id': 'a03'})",
    "why": 'res.why(0, "answer")',
    "funnel": "res.funnel",
    "ledger": "res.ledger",
    "errors": "res.errors",
    "diff": (
        'shorter = LLMStep(prompt="Article ({topic}):\\n{text}\\n\\nWrite a question that needs a reason.",\n'
        '                  system_prompt="Use only the article.", output_columns=["question", "answer"],'
        ' model=model).as_step("ask")\n'
        "dfn.diff((long_enough >> ask).run(limit=6, show_progress=False),"
        " (long_enough >> shorter).run(limit=6, show_progress=False))"
    ),
    "model": 'OpenAIModel("gpt-4o-mini")',
    "seed": 'Seed.product(Seed.values("topic", TOPICS), Seed.values("level", ["easy", "hard"]))',
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
