"""Runs `-m MODULE ARGS` as Python does, and writes which files of ours are entered: for `benchmarks.rooms`.

$ROOMS_WORD is empty: each file once for each tenth of a second in which one of its functions is entered or resumed.
Otherwise: each file once in which a function is called with the word, or returns it.  Not in the path.  It imports
nothing of the tree.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

TREE, WORD = os.environ["ROOMS_TREE"], os.environ["ROOMS_WORD"]
OURS = tuple(f"{TREE}/{name}/" for name in ("shared", "voxd", "voxtui"))
PROCESS = {"voxd.engine": "engine", "voxtui": "client"}.get(sys.argv[2], "gateway")
DEPTH, MANY = 4, 8  # how far the word is looked for in objects, and in how many items of a list

known: dict[CodeType, str] = {}  # our file of a function, "" of others
written: set[tuple[str, int]] = set()


def holds(value: Any, depth: int = DEPTH) -> bool:
    """Whether the word is in it: in a text, in bytes, or in the parts of a message."""
    if isinstance(value, str):
        return WORD in value
    if isinstance(value, bytes | bytearray):
        return WORD.encode() in value
    if depth == 0 or isinstance(value, type):
        return False
    if isinstance(value, list | tuple):
        return any(holds(part, depth - 1) for part in value[-MANY:])
    names = getattr(type(value), "__struct_fields__", None) or getattr(type(value), "__dataclass_fields__", ())
    return any(holds(getattr(value, name, None), depth - 1) for name in names)


def profile(frame: FrameType, event: str, given: Any) -> None:
    if event not in ("call", "return"):
        return
    code = frame.f_code
    file = known.get(code)
    if file is None:
        name = code.co_filename
        file = known[code] = name[len(TREE) + 1 :] if name.startswith(OURS) and code.co_name != "<module>" else ""
    if file:
        note(frame, event, given, file)


def note(frame: FrameType, event: str, given: Any, file: str) -> None:
    tenth = 0 if WORD else time.monotonic_ns() // 100_000_000
    if (file, tenth) in written:
        return
    if WORD:
        values = [given] if event == "return" else [frame.f_locals[name] for name in arguments(frame)]
        if not any(map(holds, values)):
            return
    written.add((file, tenth))
    os.write(out, json.dumps({"process": PROCESS, "file": file, "tenth": tenth}).encode() + b"\n")


def arguments(frame: FrameType) -> tuple[str, ...]:
    """Names of those that are set, without `self`, which holds the past."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return tuple(name for name in names if name != "self" and name in frame.f_locals)


out = os.open(Path(os.environ["ROOMS_OUT"]) / f"{os.getpid()}.trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
if __name__ == "__main__":
    module = sys.argv[2]
    sys.argv[:] = [module, *sys.argv[3:]]
    sys.path[0] = TREE
    sys.executable = os.environ.get("ROOMS_PYTHON", sys.executable)  # by which the gateway starts the engine process
    threading.setprofile(profile)
    sys.setprofile(profile)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
