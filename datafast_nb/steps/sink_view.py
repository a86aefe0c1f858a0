"""What the card of a sink shows: where it writes, and what stands there now."""

from __future__ import annotations

import os

from datafast_nb.display import formats
from datafast_nb.display.views import Block, Fact, Facts, Line, Mark, Paragraph
from datafast_nb.errors import SinkError
from datafast_nb.steps.base import SinkStep
from datafast_nb.steps.filesink import FileSink
from datafast_nb.steps.jsonl import JsonlSink
from datafast_nb.steps.sinks import CsvSink, ListSink, ParquetSink
from datafast_nb.steps.source_view import local_text

_FORMATS = {
    JsonlSink: "JSON Lines, UTF-8",
    CsvSink: "CSV with a header, UTF-8",
    ParquetSink: "Parquet, one table",
}


def sink_blocks(sink: SinkStep) -> tuple[Block, ...]:
    """Facts; and why writing would fail, where that is known. Writes nothing."""
    if isinstance(sink, ListSink):
        n = len(sink.records)
        held = f"{formats.plural(n, 'record')} of the last run" if n else "nothing before a run"
        return (Facts((Fact("records", (held,)),), is_ruled=True),)
    if not isinstance(sink, FileSink):
        facts = tuple(sink.view_settings())
        return (Facts(facts, is_ruled=True),) if facts else ()
    written = []
    for kind, words in _FORMATS.items():
        if isinstance(sink, kind):
            packed = ", compressed" if sink.file.lower().endswith(".gz") else ""
            written.append(Fact("format", (words + packed,)))
    written.append(Fact("there now", _there(sink)))
    hidden = {"file", "append"}
    written += [fact for fact in sink.view_settings() if fact.label not in hidden]
    blocks: list[Block] = []
    try:
        sink.check()
    except (SinkError, OSError) as exc:
        blocks.append(Paragraph((Mark("failed"), f" {local_text(str(exc))}")))
    return (*blocks, Facts(tuple(written), is_ruled=True))


def _there(sink: FileSink) -> Line:
    try:
        found = os.stat(sink.path())
    except OSError:
        return ("no file yet",)
    appends = isinstance(sink, JsonlSink) and sink.append
    what = "stays, records go after it" if appends else "is replaced as a whole by a run"
    return (f"{formats.file_size(found.st_size)}, which {what}",)
