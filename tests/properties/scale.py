"""How many examples the properties try: enough for every change, or (DATAFAST_NB_SOAK=1) for a release."""

import os
from pathlib import Path

# Read when the module is imported: tests run without the package's variables.
SOAK = os.environ.get("DATAFAST_NB_SOAK", "") not in ("", "0")
# Memory where there is some: a run with a checkpoint waits for the disk a dozen times.
FAST_DISK = "/dev/shm" if Path("/dev/shm").is_dir() else None


def many(usual: int, soak: int) -> int:
    """The number of examples."""
    return soak if SOAK else usual
