"""Runs of small pipelines in processes that are killed: forked here, since importing takes long."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import datafast_nb as dfn
import datafast_nb.engine.runner
import datafast_nb.store.memo
from properties import small_pipelines as small


class Death:
    """kill -9 at the n-th call, or the n-th touch of the disk; odd ones before it, even ones after."""

    def __init__(self, way: str, n: int) -> None:
        self.way, self.left = way, n
        if way == "disk":
            for name in ("fsync", "replace", "unlink"):
                setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: Any) -> Any:
        def call(*args: Any, **kw: Any) -> Any:
            self.come()
            done = real(*args, **kw)
            self.come()
            return done

        return call

    def come(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def at_call(self) -> None:
        if self.way == "call":
            self.come()


def live(order: dict[str, Any]) -> None:
    folder = Path(order["folder"])
    dfn.options.home = folder / "home"
    way, n, schedule = order["death"]
    death = Death(way, n)
    spec = [tuple(step) for step in order["spec"]]
    result = small.run(
        spec,
        order["n_rows"],
        folder,
        in_flight=order["in_flight"],
        resume=True,
        order=schedule,
        before=death.at_call,
    )
    (folder / "story.txt").write_text(small.story(result))


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                live(json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
