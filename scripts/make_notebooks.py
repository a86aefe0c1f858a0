"""Writes the notebooks in notebooks/, with the outputs of a whole run, and their recording.

    python scripts/make_notebooks.py            # all
    python scripts/make_notebooks.py 02         # those whose name begins so

The outputs of 01_quickstart and the recording in notebooks/recordings/ come from the same run, on
the local model.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from datafast_nb.widgets.freeze import freeze_notebook

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
RECORDING = NOTEBOOKS / "recordings" / "01_quickstart.jsonl"

QUICKSTART = [
    """#: # Quickstart

Documents become questions and answers, written by a small model that runs in this notebook:
no key, no server, nothing to pay. Build a pipeline cell by cell, end each cell with the object, look, and only
then run it all. **Looking is free**: displaying an object never asks a model. **Nothing is paid twice**:
every answer is on disk before you see it, and is used again whenever the same question is asked.""",
    """import datafast_nb as dfn
from datafast_nb import Filter, LLMStep, LocalModel, Sink, Source
from datafast_nb.data import articles""",
    """#: ## 1. A source and a filter

`>>` joins steps. A pipeline in the last line of a cell shows what it does to the first records.""",
    """documents = (
    Source.list(articles()[:12]).as_step("documents")
    >> Filter(fn=lambda r: len(r["text"]) > 120).as_step("long_enough")
)
documents""",
    """#: ## 2. An LLM step

`SmolLM2-135M` is real but tiny, so expect weak content; for good content put another model here,
for example `OpenAIModel("gpt-4o-mini")`. Several output columns mean that the model is asked for
JSON, and that its reply is checked. One example shows it what is wanted.""",
    """model = LocalModel()
model""",
    """def asking(prompt):
    return LLMStep(
        prompt=prompt,
        input_columns=["text"],
        output_columns=["question", "answer"],
        examples=[
            {
                "text": "The Eiffel Tower was finished in 1889. It stands in Paris.",
                "question": "When was the Eiffel Tower finished?",
                "answer": "It was finished in 1889.",
            }
        ],
        model=model,
        temperature=0.3,
        max_tokens=120,
    ).as_step("ask")


questions = documents >> asking(
    "Text: {text}\\n\\nWrite one quiz question about this text, and its short answer."
)
questions""",
    """#: The answers are *pending*: nobody has been asked. Open `ask` above to read the prompt of the first
record exactly as it would be sent. What would it cost?""",
    """questions.estimate()""",
    """#: ## 3. One record

`run_one` takes one record through every step, and shows the prompt as it was sent and the raw reply.""",
    """one = questions.run_one(1)
one""",
    """one["question"], one["answer"]""",
    """#: ## 4. A few

`limit` counts the records that enter the LLM step. What it asks is part of what the full run asks,
so looking at three records first costs nothing extra.""",
    """three = questions.run(limit=3)
three""",
    """#: ## 5. Another prompt

Change the prompt, run the same three records, and compare: words that went are struck through, new ones underlined.
Going back to the first prompt would cost nothing.""",
    """shorter = documents >> asking("Text: {text}\\n\\nWrite one short question about this text, and its answer.")
dfn.diff(three, shorter.run(limit=3))""",
    """#: ## 6. All""",
    """pipeline = questions >> Sink.jsonl("questions.jsonl").as_step("write")
result = pipeline.run()
result""",
    """#: Every value explains itself: which call wrote it, what was asked, what came back.""",
    """result.why(0, "question")""",
    """#: A result is a list of dicts that knows how it came to be: `.df`, `.ledger`, `.funnel`, `.errors`, `.calls`.""",
    """result.df[["title", "question", "answer"]].head(3)""",
    """result.ledger""",
    """#: `report` writes one file that opens in any browser, for those who have no notebook.""",
    """# NBVAL_CHECK_OUTPUT
str(result.report("questions.html"))""",
    """#: ## 7. Again

The same run once more: every answer is on disk, so no model is asked. The same holds after a restart of
the kernel, after a crash, and for the unchanged steps of a pipeline that you edit.""",
    """# NBVAL_CHECK_OUTPUT
again = pipeline.run()
again == result, again.ledger.total.new""",
]


COST = [
    """#: # Cost, budget, resume

What happens to your money and your records when a run is too dear, is stopped, or fails half-way.
**What a model answered is on disk before you see it**, so each of these cells pays only for what is missing.

The model here stands for a paid one: its answers come from a function after 20 ms, its list price is real.
It also has bad moments: one record it refuses, and at first it is overloaded for some others. Put
`OpenAIModel("gpt-4o")` or any other in its place.""",
    """import random
import time

import datafast_nb as dfn
from datafast_nb import FakeModel, LLMError, LLMStep, Sink, Source
from datafast_nb.models.base import Response, Usage

overloaded = True
chance = random.Random(1)


def answer(request):
    asked = request.messages[-1]["content"]
    if "worried says about a lost luggage, 2" in asked:
        return Response(text="I cannot help with that.", finish="refused", usage=Usage(25, 6))
    if "says about a delayed parcel, 3" in asked and overloaded:
        return LLMError("the provider is overloaded", kind="server")
    if asked.startswith("Write"):
        return chance.choice(["Where is it?", "I am still waiting.", "This is the second time!"])
    if asked.startswith("Answer"):
        return f"We are sorry, and on it: case {chance.randrange(1000, 10_000)}."
    return str(chance.randrange(1, 6))


model = FakeModel(answer, name="gpt-4o", provider="openai", latency_s=0.02)""",
    """topics = ["lost luggage", "delayed parcel", "wrong size", "double charge", "broken zip"]
moods = ["angry", "polite", "confused", "in a hurry", "sarcastic", "worried", "cheerful", "tired"]
tickets = Source.list(
    [{"topic": t, "mood": m, "n": n} for n in (1, 2, 3) for m in moods for t in topics]
).as_step("tickets")


def step(prompt, column):
    return LLMStep(
        prompt=prompt, output_columns=[column], model=model, max_tokens=200, retry_delay=0.01
    ).as_step(column)


pipeline = (
    tickets
    >> step("Write what a customer who is {mood} says about a {topic}, {n}.", "complaint")
    >> step("Answer this customer kindly: {complaint} ({topic}, {mood}, {n})", "reply")
    >> step("Rate this answer from 1 to 5: {reply} ({topic}, {mood}, {n})", "score")
    >> Sink.jsonl("tickets.jsonl").as_step("write")
)
pipeline""",
    """#: ## 1. Before: what will it cost?

`estimate` asks nobody. It counts the calls that are new, and gives a range with its reasons.""",
    """pipeline.estimate()""",
    """#: ## 2. A budget

`budget=` is reserved before each call is sent, so spending never passes it. With a budget records go through all three
steps one after the other (`order="records"`): what is spent when it ends has bought **finished rows**, not
120 complaints without an answer.""",
    """try:
    pipeline.run(budget=0.015)
except dfn.BudgetExceededError as stopped:
    print(stopped)
dfn.last""",
    """#: A partial run does not touch `tickets.jsonl`; it wrote `tickets.partial.jsonl` beside it. The ledger of the
run says what was paid, and what of it bought nothing:""",
    """dfn.last.ledger""",
    """#: ## 3. A stop

`start` runs in the background, and the cell is free. `run.stop()`, or the stop button while a cell waits, sends
nothing more; what is under way comes in and is kept. `checkpoint_dir` keeps records of finished steps as files that people can
read; without it the memo alone is enough to go on.""",
    """run = pipeline.start(checkpoint_dir="night", max_concurrent=2)
while not run.done and (run.progress is None or run.progress.new < 60):
    time.sleep(0.01)
run.stop()
run.result()""",
    """#: ## 4. On from there

After a stop, a crash or a power cut: run it again. Everything above is answered from disk; only the rest is asked.""",
    """result = pipeline.run(checkpoint_dir="night", resume=True)
result""",
    """#: ## 5. What failed

No record is lost without a word. The errors are grouped by cause, with what to do; the records stand in
`result.dropped(step)`.""",
    """result.errors""",
    """#: The overload has passed. `retry_failed` asks anew for the failed calls and for what follows from them. (The refusals are asked again as well;
they come back refused, and stay told.)""",
    """overloaded = False
mended = result.retry_failed()
mended""",
    """#: ## 6. Another draw, and back

One reply is not to your taste? `resample` pays for a new one; the old one stays on disk, and `restore` goes back to it
for nothing.""",
    """again = mended.resample(0, column="reply")
back = again.restore(0, column="reply")
print(back.draws(0, "reply"), "in use:", back[0]["reply"])
back.ledger""",
    """#: ## 7. After: the whole bill

The project's ledger, over all runs and days, from disk. Saved is what the memo answered instead of the provider.""",
    """dfn.ledger().per_run""",
    """dfn.ledger().per_day""",
    """#: For a bound that holds over all runs of a day, set `dfn.options.budget_usd_per_day`. And once more, to see that nothing is
paid twice:""",
    """# NBVAL_CHECK_OUTPUT
once_more = pipeline.run(show_progress=False)
once_more.ledger.total.new, len(once_more)""",
]


PANEL = [
    """#: # The panel

A pipeline with buttons, live in a cell: try one record, run a few, watch, stop, read every prompt and reply, edit
the prompt, look at the bill. **Showing it asks no model**; only its buttons do, and each says before what it will cost.

![The panel of a pipeline: controls, progress, records](../docs/images/panel-light.png)

Run this notebook to have it live. Without a kernel you see what stands beside each panel: its static display. The model
here stands for a paid one: answers after 0.2 s, with a real list price, and a refusal now and then.""",
    """import datafast_nb as dfn
from datafast_nb import FakeModel, Filter, LLMStep, Source
from datafast_nb.models.base import Response, Usage


def answer(request):
    asked = request.messages[-1]["content"]
    if asked.startswith("Rate"):
        return str(5 + len(asked) % 5)
    if "tides" in asked:
        return Response(text="I cannot help with that.", finish="refused", usage=Usage(25, 6))
    topic = asked.split(": ", 1)[1]
    return {"question": f"What is special about {topic}?", "answer": f"Quite a lot: {topic} is rarer than one thinks."}


model = FakeModel(answer, name="gpt-4o-mini", provider="openai", latency_s=0.2)
places = ["a cave", "a delta", "a glacier", "a reef", "a desert", "a volcano", "a fjord", "a bay with tides"]
pipeline = (
    Source.list([{"id": k, "topic": p, "level": 1 + k % 3} for k, p in enumerate(places * 4)]).as_step("topics")
    >> Filter(fn=lambda r: r["level"] < 3).as_step("easy")
    >> LLMStep(
        prompt="Write a question of level {level}, and its answer, about: {topic}",
        output_columns=["question", "answer"],
        model=model,
    ).as_step("ask")
    >> LLMStep(prompt="Rate from 1 to 10: {question} {answer}", output_columns=["score"], model=model).as_step("rate")
)""",
    """#: ## 1. Open it

`limit` and `budget` are only where its controls begin. Click **Run one**: one record goes through every step, and the
*Record* tab shows each call: the prompt as it was sent, the raw reply, the parsed fields. Then **Run**. The cell is
free meanwhile; **Stop** keeps every answer that arrived.""",
    """panel = pipeline.panel(limit=10, budget=0.05)
panel""",
    """#: | | |
|---|---|
| *Records* | all rows, drawn as you scroll, also a million; search, filter, sort; the pandas expression that gives the same rows is below |
| *Record* | one record from the source to the end, with its calls; *Retry*, *Ask again*, *Copy prompt*, *Pin* |
| *Prompt* | edit prompt, system prompt, model and temperature as a draft; **Ctrl+Enter** runs it on the pinned records |
| *Cost* | calls, tokens, paid, saved, wasted for each step and model; what was estimated and what was paid |
| *Graph* | records and calls at each step; a click opens the records behind it |
| *Errors* | failed calls by cause, with what to do; *Retry* asks for those alone |

In the table: arrow keys, **Enter** opens the record, **Esc** goes back, **Space** selects, **p** pins. Keys that you press
in the panel never reach the notebook.""",
    """#: ## 2. What a cell runs, the panel shows

`run` in a cell is the same pipeline: the panel follows it, its **Stop** stops it, and what it gave is shown
there. Everything is in one memo, so what one has paid for, the other has for nothing.""",
    """result = pipeline.run(limit=10)
result""",
    """#: ## 3. Rows that you look at, as a DataFrame

`panel.df` has the rows as they are searched, filtered and sorted now; `panel.selection` those that are
selected; `panel.result` is the whole Result.""",
    """panel.df.head(3)""",
    """#: A table of a Result alone, for instance of one that you loaded or joined, is `result.explore()`; a run that was
started with `pipeline.start()` is watched with `run.panel()`.""",
    """result.explore()""",
    """#: ## 4. Take your edits with you

A draft never changes the notebook. `panel.pipeline` is the pipeline with the edits, and `to_code()` writes a pipeline as
Python, to copy into a cell. (A draft runs without sinks: files are written by what the notebook says.)""",
    """print(panel.pipeline.to_code())""",
    """#: ## 5. Commit it

A saved notebook has the static display beside each panel, and hides it while the panel lives. `panel.freeze()` (or *Freeze*) puts what is
shown now in the place of the panel; `datafast-nb freeze notebook.ipynb` does so for all panels of a file, so that what is
committed reads well everywhere. This file was frozen so.""",
]


MARKDOWN = "#: "
"""How the text of a Markdown cell begins below."""

ALL = {"01_quickstart": QUICKSTART, "02_cost_budget_resume": COST, "03_the_panel": PANEL}


def build(cells: list[str]) -> nbformat.NotebookNode:
    """The notebook without outputs."""
    made = []
    for i, text in enumerate(cells):
        is_text = text.startswith(MARKDOWN)
        make = nbformat.v4.new_markdown_cell if is_text else nbformat.v4.new_code_cell
        cell = make(text.removeprefix(MARKDOWN))
        cell["id"] = f"cell-{i:02d}"
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel})


def write(name: str) -> None:
    """Run a notebook in an empty project and keep it with its outputs."""
    notebook = build(ALL[name])
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "pyproject.toml").touch()  # the project root, so that paths are shown short
        os.environ.pop("DATAFAST_NB_HOME", None)
        os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
        NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": str(project)}}
        ).execute()
        if name == "01_quickstart":
            _record(project)
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
    freeze_notebook(NOTEBOOKS / f"{name}.ipynb")
    print(f"{name}.ipynb written")


def _record(project: Path) -> None:
    from datafast_nb.store.memo import Memo

    memo = Memo(project / ".datafast_nb" / "memo")
    RECORDING.parent.mkdir(parents=True, exist_ok=True)
    n = memo.export(str(project / "recording.jsonl"))
    memo.close()
    shutil.copyfile(project / "recording.jsonl", RECORDING)
    print(f"{n} answers recorded")


def main() -> int:
    """Write those that are named on the command line, else all."""
    wanted = tuple(sys.argv[1:])
    for name in ALL:
        if not wanted or name.startswith(wanted):
            write(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
