"""Bundled records for the demo, the docs and first tries: short factual articles."""

from __future__ import annotations

from pathlib import Path

import orjson

from datafast_nb.records import Record


def articles_path() -> Path:
    """The JSONL file of `articles`."""
    return Path(__file__).with_name("articles.jsonl")


def articles() -> list[Record]:
    """34 records with the columns id, title, topic, text; four are stubs under 120 characters."""
    return [orjson.loads(line) for line in articles_path().read_bytes().splitlines()]
