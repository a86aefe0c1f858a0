"""Writes notebooks/01_quickstart.ipynb, runs it on the local model, and keeps the recording.

    python scripts/make_quickstart.py

The notebook's outputs and the recording in notebooks/recordings/ come from the same run.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "01_quickstart.ipynb"
RECORDING = ROOT / "notebooks" / "recordings" / "01_quickstart.jsonl"

CELLS = [
    """# Quickstart

Documents become questions and answers, written by a small model that runs in this notebook:
no key, no server, nothing to pay. Build a pipeline cell by cell, end each cell with the object, look, and only
then run it all. **Looking is free**: displaying an object never asks a model. **Nothing is paid twice**:
every answer is on disk before you see it, and is used again whenever the same question is asked.""",
    """import datafast_nb as dfn
from datafast_nb import Filter, LLMStep, LocalModel, Sink, Source
from datafast_nb.data import articles""",
    """## 1. A source and a filter

`>>` joins steps. A pipeline in the last line of a cell shows what it does to the first records.""",
    """documents = (
    Source.list(articles()[:12]).as_step("documents")
    >> Filter(fn=lambda r: len(r["text"]) > 120).as_step("long_enough")
)
documents""",
    """## 2. An LLM step

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
    """The answers are *pending*: nobody has been asked. Open `ask` above to read the prompt of the first
record exactly as it would be sent. What would it cost?""",
    """questions.estimate()""",
    """## 3. One record

`run_one` takes one record through every step, and shows the prompt as it was sent and the raw reply.""",
    """one = questions.run_one(1)
one""",
    """one["question"], one["answer"]""",
    """## 4. A few

`limit` counts the records that enter the LLM step. What it asks is part of what the full run asks,
so looking at three records first costs nothing extra.""",
    """three = questions.run(limit=3)
three""",
    """## 5. Another prompt

Change the prompt, run the same three records, and compare: words that went are struck through, new ones underlined.
Going back to the first prompt would cost nothing.""",
    """shorter = documents >> asking("Text: {text}\\n\\nWrite one short question about this text, and its answer.")
dfn.diff(three, shorter.run(limit=3))""",
    """## 6. All""",
    """pipeline = questions >> Sink.jsonl("questions.jsonl").as_step("write")
result = pipeline.run()
result""",
    """Every value explains itself: which call wrote it, what was asked, what came back.""",
    """result.why(0, "question")""",
    """A result is a list of dicts that knows how it came to be: `.df`, `.ledger`, `.funnel`, `.errors`, `.calls`.""",
    """result.df[["title", "question", "answer"]].head(3)""",
    """result.ledger""",
    """`report` writes one file that opens in any browser, for those who have no notebook.""",
    """# NBVAL_CHECK_OUTPUT
str(result.report("questions.html"))""",
    """## 7. Again

The same run once more: every answer is on disk, so no model is asked. The same holds after a restart of
the kernel, after a crash, and for the unchanged steps of a pipeline that you edit.""",
    """# NBVAL_CHECK_OUTPUT
again = pipeline.run()
again == result, again.ledger.total.new""",
]


def build() -> nbformat.NotebookNode:
    """The notebook without outputs."""
    cells = []
    for i, text in enumerate(CELLS):
        is_code = not text.startswith(("#", "The answers", "A result", "Every value", "`"))
        is_code = is_code or text.startswith("# NBVAL")
        make = nbformat.v4.new_code_cell if is_code else nbformat.v4.new_markdown_cell
        cell = make(text)
        cell["id"] = f"cell-{i:02d}"
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def main() -> int:
    """Run it in an empty project and keep notebook and recording."""
    notebook = build()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "pyproject.toml").touch()  # the project root, so that paths are shown short
        os.environ.pop("DATAFAST_NB_HOME", None)
        os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
        NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": str(project)}}
        ).execute()
        from datafast_nb.store.memo import Memo

        memo = Memo(project / ".datafast_nb" / "memo")
        RECORDING.parent.mkdir(parents=True, exist_ok=True)
        n = memo.export(str(project / "recording.jsonl"))
        memo.close()
        shutil.copyfile(project / "recording.jsonl", RECORDING)
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK.name}: {n} answers recorded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
