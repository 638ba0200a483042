"""A command line in a process that kills itself while it saves: `python dying.py NUMBER WHEN WORDS...`.

It dies (SIGKILL) at the NUMBER-th atomic write of its life: WHEN is `torn`, with half of the file written; `before`, with
the file whole under its temporary name; or `after`, as soon as it has its own name.
"""

import os
import runpy
import signal
import sys
from typing import Any

NUMBER, WHEN = int(sys.argv[1]), sys.argv[2]
fsync, replace, writes = os.fsync, os.replace, 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deadly_fsync(file: int) -> None:
    global writes
    writes += 1
    if writes == NUMBER and WHEN == "torn":
        os.ftruncate(file, os.fstat(file).st_size // 2)
        die()
    fsync(file)


def deadly_replace(*paths: Any) -> None:
    if writes == NUMBER and WHEN == "before":
        die()
    replace(*paths)
    if writes == NUMBER and WHEN == "after":
        die()


os.fsync, os.replace = deadly_fsync, deadly_replace
sys.argv = ["ardbench", *sys.argv[3:]]
runpy.run_module("ardbench", run_name="__main__")
