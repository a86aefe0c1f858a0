"""What a traced process did to files, in order: the output of strace, read."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "write,pwrite64,writev,sendto,sendmsg,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat"
)
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_OPEN = re.compile(r"^(?:\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})+)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class Event:
    """One system call, from its entry to its return, in places of the trace."""

    name: str
    path: str
    """Of the open file it works on; "" for none."""
    texts: list[bytes]
    """What is written, or the names it is given."""
    start: int
    end: int = -1
    """-1: it never returned."""
    result: str = ""

    @property
    def data(self) -> bytes:
        return b"".join(self.texts)


def traced(command: list[str], folder: Path, env: dict[str, str]) -> list[Event]:
    """Run a command to its end; what it and its threads did."""
    out = folder / "trace"
    strace = ["strace", "-f", "-y", "-xx", "-s", "100000", "-o", str(out), "-e", f"trace={CALLS}"]
    done = subprocess.run(
        [*strace, *command], env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return read_trace(out.read_text())


def read_trace(text: str) -> list[Event]:
    events: list[Event] = []
    under_way: dict[tuple[str, str], Event] = {}
    for place, line in enumerate(text.splitlines()):
        if found := _RESUMED.match(line):
            event = under_way.pop((found[1], found[2]))
            event.end, event.result = place, line.rpartition("= ")[2]
        elif found := _LINE.match(line):
            pid, name, rest = found.groups()
            opened = _OPEN.match(rest)
            texts = [_bytes(t) for t in _TEXT.findall(rest)]
            event = Event(name, _bytes(opened[1]).decode() if opened else "", texts, place)
            if rest.endswith("<unfinished ...>"):
                under_way[pid, name] = event
            else:
                event.end, event.result = place, line.rpartition("= ")[2]
            events.append(event)
    return events


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def synced_after(events: list[Event], path: str, place: int) -> int | None:
    """Where the first sync of the file that began behind `place` returned; None: nowhere."""
    for event in events:
        is_sync = event.name in ("fsync", "fdatasync") and event.path == path
        if is_sync and event.start > place and event.end >= 0 and event.result == "0":
            return event.end
    return None
