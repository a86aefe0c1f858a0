"""What the package logs: one logger, records with fields, and a formatter that writes JSON.

::

    import logging
    from datafast_nb.logs import JsonFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.getLogger("datafast_nb").addHandler(handler)
    pipeline.run(log_level="INFO")

Runs and steps are told at INFO, what was lost, left out or stopped at WARNING, and each attempt
of each call at DEBUG. The words of prompts are in no record; error messages, which may quote a
reply, are in those of DEBUG alone. The package installs no handler: without one nothing is shown.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("datafast_nb")
logger.addHandler(logging.NullHandler())

FIELDS = (
    "event",
    "run",
    "step",
    "index",
    "steps",
    "record",
    "records",
    "model",
    "provider",
    "attempt",
    "verdict",
    "status",
    "error",
    "finish",
    "input_tokens",
    "output_tokens",
    "usd",
    "latency_s",
    "retry_after_s",
    "maybe_billed",
    "n_in",
    "n_out",
    "n_records",
)
"""Fields that records may carry, as attributes; those that say nothing are left out.

`event` is "run_started", "step_started", "step_finished", "records_lost", "note", "run_finished"
or "attempt"; `run` is the run's name in the ledger; `record` counts the step's inputs from 0;
`usd` is at list price and left out where unknown.
"""


def tell(level: int, message: str, **fields: Any) -> None:
    """Log a sentence with its fields, those that are None or NaN left out. Never raises."""
    with contextlib.suppress(Exception):  # a filter of the user's own must not cost an answer
        if logger.isEnabledFor(level):
            logger.log(level, "%s", message, extra={k: v for k, v in fields.items() if _says(v)})


def _says(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the fields there are."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
