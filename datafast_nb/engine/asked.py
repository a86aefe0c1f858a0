"""What a user asks of a run, checked before anything is done."""

from __future__ import annotations

import os
from typing import Any, Literal

from datafast_nb.engine.context import CheckpointPlan, Order, Pick, RunSettings
from datafast_nb.errors import DatafastError
from datafast_nb.logs import logger


def whole_number(name: str, value: Any) -> int | None:
    """`value`, if it is a whole number of 0 or more, or None. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}; use a whole number of 0 or more")
    return value


def run_settings(
    limit: int | None,
    pick: Pick,
    limit_at: str | None,
    budget: float | None,
    max_calls: int | None,
    in_flight: tuple[int, int],
    sinks: bool | Literal["auto"],
    order: Order | None = None,
) -> RunSettings:
    """Checked settings of `run` and `start`; `in_flight`: batch_size and max_concurrent."""
    size = max(
        whole_number("batch_size", in_flight[0]) or 0,
        whole_number("max_concurrent", in_flight[1]) or 0,
    )
    if size == 0:
        raise ValueError("max_concurrent is 0; at least one call must be in flight")
    settings = RunSettings(
        limit=whole_number("limit", limit),
        pick=pick,
        limit_at=limit_at,
        budget_usd=budget,
        max_calls=whole_number("max_calls", max_calls),
        in_flight=size,
        sinks=sinks,
        order=order,
    )
    _check_settings(settings)
    return settings


def checkpoint_plan(
    folder: str | os.PathLike[str] | None, resume: bool, resume_from: int | str | None
) -> CheckpointPlan | None:
    """Where a run keeps its steps, None where nowhere. Raises ValueError."""
    if folder is None:
        if resume or resume_from is not None:
            said = "resume=True" if resume else f"resume_from={resume_from!r}"
            raise ValueError(f"{said} needs checkpoint_dir=, the directory to go on from")
        return None
    if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
        raise ValueError(f"checkpoint_dir is {folder!r}; give the path of a directory")
    return CheckpointPlan(os.fsdecode(folder), bool(resume), resume_from)


def _check_settings(settings: RunSettings) -> None:
    if settings.pick not in ("first", "spread", "random"):
        raise ValueError(f"pick is {settings.pick!r}; use 'first', 'spread' or 'random'")
    if settings.sinks not in (True, False, "auto"):
        raise ValueError(f"sinks is {settings.sinks!r}; use 'auto', True or False")
    if settings.order not in (None, "steps", "records"):
        raise ValueError(f"order is {settings.order!r}; use 'steps', 'records' or None")
    budget = settings.budget_usd
    is_number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if budget is not None and not (is_number and budget >= 0):
        raise ValueError(f"budget is {settings.budget_usd!r}; use US dollars of 0 or more")


def set_log_level(level: str | int) -> None:
    """Level of the package's logger. Raises DatafastError for an unknown one."""
    try:
        logger.setLevel(level.upper() if isinstance(level, str) else level)
    except ValueError:
        raise DatafastError(
            f"log_level is {level!r}; use 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"
        ) from None
