"""Fuzz the targets: `python -m fuzz [TARGET ...]`, `FUZZ_SECONDS` (60) for each."""

from __future__ import annotations

import os
import sys

from fuzz.run import NAMES, fuzz


def main(names: list[str]) -> int:
    """Fuzz and print a line for each target; 1 where something was found."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no target {unknown[0]!r}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    seed = int(os.environ.get("FUZZ_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
    found = 0
    print(f"{seconds:g} s each, FUZZ_SEED={seed}")
    for name in names or NAMES:
        report = fuzz(name, seconds, seed)
        print(report.line(), flush=True)
        found += len(report.findings)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
