"""Options of the process and the place where the project keeps its files."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

HOME_NAME = ".datafast_nb"


@dataclass
class Options:
    """Settings of this process. Change attributes: `dfn.options.home = "memo"`."""

    home: str | Path | None = None
    """Directory of the memo. None: variable DATAFAST_NB_HOME, else `.datafast_nb` at the project root."""
    mode: Literal["normal", "replay"] | None = None
    """In mode "replay" the run answers from the memo alone and opens no socket. None: variable DATAFAST_NB_MODE, else "normal"."""
    progress: bool | None = None
    """Show a progress line. None: variable DATAFAST_NB_PROGRESS, else yes where someone watches."""
    preview_on_display: Literal["auto", "safe", "off"] = "auto"
    """What displaying a pipeline runs: "auto" free steps on a few records, "safe" no user function, "off" nothing."""
    ascii: bool | None = None
    """Displays in terminals are ASCII; None: only where the output could take nothing else."""
    preview_seconds: float = 1.0
    """Seconds after which a preview on display stops between records."""
    keep_rows: int = 50_000
    """Tables between steps up to this many records stay in memory with a Result."""
    max_reply_bytes: int = 20_000_000
    """Size limit of one reply, after decompression."""
    timeout_s: float = 120.0
    """Seconds for one attempt of a model that names no `timeout_s` itself."""
    max_retry_after_s: float = 120.0
    """A provider that asks to wait longer than this many seconds stops the run; what was answered is kept."""
    lock_wait_s: float = 30.0
    """Seconds to wait for another process that holds the memo's lock."""
    budget_usd_per_day: float | None = None
    """US dollars at list price that all runs from one memo may spend on a day (local date), each call reserved before it is sent. What other processes have stored counts. None: no bound."""
    confirm: bool | None = None
    """Ask before a large run without `budget=` or `max_calls=`; None: in notebooks only."""
    confirm_above_usd: float | None = 1.0
    """Dollars above which a run counts as large; None: its cost does not matter."""
    confirm_above_minutes: float | None = 30.0
    """Minutes above which a run counts as large; None: its time does not matter."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = [f.name for f in fields(self)]
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise AttributeError(f"no option {name!r}; {hint}Options: {', '.join(known)}")
        if not _fits(name, value):
            raise ValueError(f"options.{name} is {value!r}; use {_VALUES[name]}")
        super().__setattr__(name, value)


_VALUES = {
    "home": "a path, or None",
    "mode": "'normal', 'replay' or None",
    "ascii": "True, False or None",
    "progress": "True, False or None",
    "preview_on_display": "'auto', 'safe' or 'off'",
    "preview_seconds": "seconds of 0 or more",
    "keep_rows": "a whole number of 0 or more",
    "max_reply_bytes": "a whole number of 0 or more",
    "timeout_s": "seconds above 0",
    "max_retry_after_s": "seconds of 0 or more",
    "lock_wait_s": "seconds of 0 or more",
    "budget_usd_per_day": "US dollars of 0 or more, or None",
    "confirm": "True, False or None",
    "confirm_above_usd": "US dollars of 0 or more, or None",
    "confirm_above_minutes": "minutes of 0 or more, or None",
}


_DECIMAL = ("_s", "_seconds", "_minutes", "_usd", "_per_day")


def _fits(name: str, value: Any) -> bool:
    if name == "home":
        return value is None or isinstance(value, (str, os.PathLike))
    if name == "mode":
        return value in (None, "normal", "replay")
    if name == "preview_on_display":
        return value in ("auto", "safe", "off")
    if name in ("ascii", "confirm", "progress"):
        return value is None or isinstance(value, bool)
    if name == "timeout_s" and value == 0:
        return False
    if value is None:
        return "usd" in name or name.endswith("_minutes")
    kinds = (int, float) if name.endswith(_DECIMAL) else int
    return isinstance(value, kinds) and not isinstance(value, bool) and value >= 0


options = Options()


def project_root(start: Path | None = None) -> Path:
    """The nearest parent of `start` (default: working directory) with `.git` or `pyproject.toml`, else itself."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / ".git").exists() or (folder / "pyproject.toml").exists():
            return folder
    return here


def home() -> Path:
    """Directory of the memo, absolute; it may not exist yet."""
    chosen = options.home or os.environ.get("DATAFAST_NB_HOME")
    return Path(chosen).expanduser().resolve() if chosen else project_root() / HOME_NAME


def shown_path(path: str | Path) -> str:
    """A path as people read it: relative inside the project, with `~` inside the home directory."""
    full = Path(path)
    for base, prefix in ((project_root(), ""), (Path.home(), "~/")):
        if full.is_relative_to(base):
            return prefix + full.relative_to(base).as_posix()
    return str(full)


def mode() -> str:
    """The mode in force: "normal" or "replay"."""
    chosen = options.mode or os.environ.get("DATAFAST_NB_MODE") or "normal"
    if chosen not in ("normal", "replay"):
        raise ValueError(
            f"mode is {chosen!r} (options.mode or DATAFAST_NB_MODE); use 'normal' or 'replay'"
        )
    return chosen
