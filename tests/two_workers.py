"""Two processes that train together, as torch.distributed needs them: not forks, which gRPC's threads may hang."""

from __future__ import annotations

import subprocess
import sys


def in_two_workers(module: str, function: str, *arguments: object, timeout_s: float = 250.0) -> None:
    """Call `function(rank, *arguments)` of a module in either of two processes; both must end well, none stays.

    The arguments are written as Python does: strings, numbers and the like.
    """
    told = "".join(f", {argument!r}" for argument in arguments)
    code = f"import {module} as module; module.{function}({{rank}}{told})"
    workers = [subprocess.Popen([sys.executable, "-c", code.format(rank=rank)]) for rank in (0, 1)]
    try:
        assert [worker.wait(timeout=timeout_s) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
