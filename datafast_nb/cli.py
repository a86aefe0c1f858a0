"""The command line: `datafast-nb demo`, `memo …`, `freeze`, `lab`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.errors import DatafastError, RunInterrupted
from datafast_nb.options import options, shown_path

if TYPE_CHECKING:
    from datafast_nb.models.base import Model
    from datafast_nb.pipeline import Pipeline

DEMO_OUTPUT = "demo-output/qa.jsonl"
DEMO_PROMPT = "Text: {text}\n\nWrite one quiz question about this text, and its short answer."
# A model this small needs to be shown what is wanted; it costs little, being the same each time.
DEMO_EXAMPLE = {
    "text": "The Eiffel Tower was finished in 1889. It is 330 metres tall and stands in Paris.",
    "question": "When was the Eiffel Tower finished?",
    "answer": "It was finished in 1889.",
}
MIN_TEXT_CHARS = 120
MAX_TEXT_CHARS = 1_200


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 on an error, 130 after an interrupt."""
    try:
        try:
            args = _parser().parse_args(argv)
            if args.home:
                options.home = args.home
            return int(args.run(args) or 0)
        finally:
            sys.stdout.flush()  # here, where a reader that has left is no error
    except RunInterrupted as exc:
        print(f"\n{exc}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has what it wants (`| head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DatafastError, ValueError, OSError) as exc:
        said = " ".join(str(exc).split())
        print(formats.printable(f"{type(exc).__name__}: {said}"), file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    from datafast_nb import __version__  # upward: the package itself

    parser = argparse.ArgumentParser(
        prog="datafast-nb",
        description="Synthetic datasets with language models: nothing is paid twice, nothing is lost.",
    )
    parser.add_argument("--version", action="version", version=f"datafast-nb {__version__}")
    parser.add_argument(
        "--home", help="directory of the memo (default: .datafast_nb at the project root)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="make a question/answer dataset with a small model that runs in this process",
        description="Documents become questions and answers, written by a real model that runs in this "
        "process (SmolLM2-135M: small, so expect weak content). A second run asks nothing.",
    )
    demo.add_argument(
        "--input", metavar="FILE", help="your documents: jsonl, json, csv, tsv, parquet or txt"
    )
    demo.add_argument(
        "--column",
        metavar="NAME",
        help="column that holds the text (default: 'text', else the longest)",
    )
    demo.add_argument(
        "--limit", type=_count, metavar="N", help="ask about this many documents only"
    )
    demo.add_argument(
        "--output",
        metavar="FILE",
        default=DEMO_OUTPUT,
        help=f"JSON Lines file to write (default: {DEMO_OUTPUT})",
    )
    demo.set_defaults(run=_demo)

    memo = commands.add_parser(
        "memo", help="look at the answers on disk, hand them on, take others' in"
    )
    actions = memo.add_subparsers(required=True, metavar="ACTION")
    info = actions.add_parser("info", help="where the memo is and what it holds")
    info.set_defaults(run=_memo_info)
    export = actions.add_parser("export", help="write all answers to a JSON Lines file")
    export.add_argument("file")
    export.set_defaults(run=_memo_export)
    load = actions.add_parser("load", help="take in the answers of an exported file")
    load.add_argument("file")
    load.set_defaults(run=_memo_load)

    freeze = commands.add_parser(
        "freeze",
        help="make live panels in notebooks static",
        description="Takes live panels out of notebook files, so that what is left shows without a "
        "kernel: their static displays stay.",
    )
    freeze.add_argument("file", nargs="+", help="notebook (.ipynb), changed in place")
    freeze.set_defaults(run=_freeze)

    lab = commands.add_parser("lab", help="open JupyterLab here")
    lab.add_argument(
        "path", nargs="?", default=".", help="folder or notebook to open (default: this folder)"
    )
    lab.set_defaults(run=_lab)
    return parser


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is no number of documents; give 1 or more")
    return int(value)


# The demo.


def demo_pipeline(model: Model, *, source: str | None, column: str | None, output: str) -> Pipeline:
    """Documents → those with enough text → question and answer → JSON Lines.

    Raises SourceError where the input has no text.
    """
    from datafast_nb.data import articles_path
    from datafast_nb.steps.llm import LLMStep
    from datafast_nb.steps.sinks import Sink
    from datafast_nb.steps.sources import Source
    from datafast_nb.steps.transform import Filter, Map

    documents = Source.file(source or str(articles_path())).as_step("documents")
    name = _text_column(documents, column)

    def long_enough(record: dict[str, Any]) -> bool:
        return isinstance(record.get(name), str) and len(record[name]) >= MIN_TEXT_CHARS

    def shorten(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "text": record[name][:MAX_TEXT_CHARS]}

    ask = LLMStep(
        prompt=DEMO_PROMPT,
        input_columns=["text"],
        output_columns=["question", "answer"],
        examples=[DEMO_EXAMPLE],
        model=model,
        temperature=0.3,
        max_tokens=120,
    )
    filtered = documents >> Filter(fn=long_enough).as_step("long_enough")
    if name != "text" or source is not None:
        filtered = filtered >> Map(shorten).as_step("shorten")
    return filtered >> ask.as_step("ask") >> Sink.jsonl(output).as_step("write")


def _text_column(source: Any, wanted: str | None) -> str:
    from datafast_nb.errors import SourceError
    from datafast_nb.validate import nearest

    lengths: dict[str, int] = {}
    if wanted is not None:
        known = source.columns() or []
        if wanted not in known:
            raise SourceError(
                f"{source.describe()} has no column {wanted!r}.{nearest(wanted, known)} "
                f"Columns: {formats.some_names(known)}"
            )
        return wanted
    for chunk in source.read(20):
        for row in chunk:
            for key, value in dict(row).items():
                if isinstance(value, str):
                    lengths[key] = lengths.get(key, 0) + len(value)
        break
    if "text" in lengths:
        return "text"
    if not lengths:
        raise SourceError(f"{source.describe()}: no column holds text; name one with --column")
    return max(lengths, key=lambda k: lengths[k])


def _demo(args: argparse.Namespace) -> int:
    from datafast_nb.errors import SourceError
    from datafast_nb.models.local import LocalModel

    model = LocalModel(threads=_idle_cores())
    pipeline = demo_pipeline(model, source=args.input, column=args.column, output=args.output)
    estimate = pipeline.estimate(limit=args.limit)
    if not any(s.records_in for s in estimate.steps if s.models):
        # An empty run would write an empty file over the former one.
        raise SourceError(
            f"{pipeline.steps[0].describe()}: no document has {MIN_TEXT_CHARS} characters or more "
            f"in its text column; {args.output} is left as it was"
        )
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    print(pipeline.visualize())
    print()
    print(estimate)
    print(flush=True)
    started = time.monotonic()
    result = pipeline.run(limit=args.limit, show_progress=True)
    seconds = time.monotonic() - started
    print()
    print(result)
    print()
    print(result.ledger)
    report = result.report(Path(args.output).with_suffix(".report.html"), title="Demo")
    print(f"\nReport, for a browser: {shown_path(report)}")
    new = result.ledger.total.new
    print(f"{formats.seconds(seconds)}, {new} model calls. Run it again: the answers are on disk.")
    return 0


def _idle_cores() -> int:
    """Cores that nobody uses, between 1 and 4: llama.cpp's threads wait for the slowest of them."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else os.cpu_count() or 1
    return max(1, min(4, (os.cpu_count() or 1) - round(busy)))


# The memo.


def _memo_info(args: argparse.Namespace) -> int:
    from datafast_nb.store.memo import open_memo

    print(open_memo().info())
    return 0


def _memo_export(args: argparse.Namespace) -> int:
    from datafast_nb.store.memo import open_memo

    n = open_memo().export(args.file)
    print(f"{n:,} answers written to {args.file}")
    return 0


def _memo_load(args: argparse.Namespace) -> int:
    from datafast_nb.store.memo import open_memo

    n = open_memo().load(args.file)
    print(f"{n:,} answers taken in from {args.file}")
    return 0


def _freeze(args: argparse.Namespace) -> int:
    from datafast_nb.widgets.freeze import freeze_notebook

    for file in args.file:
        n = freeze_notebook(file)
        print(f"{file}: {formats.plural(n, 'output')} made static" if n else f"{file}: no panel")
    return 0


def _lab(args: argparse.Namespace) -> int:
    import importlib.util
    import subprocess

    if importlib.util.find_spec("jupyterlab") is None:
        print("JupyterLab is not installed: pip install 'datafast-nb[lab]'", file=sys.stderr)
        return 1
    return subprocess.call([sys.executable, "-m", "jupyterlab", args.path])
