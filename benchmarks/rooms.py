"""`python -m benchmarks.rooms [TREE ...]`: how many files a packet of sound and a word of text pass through, counted.

It runs real sessions (`voxd start --transcribe whisper`, `voxtui connect --file`) of each TREE, by the `.venv` in it,
with a tracer (`benchmarks.tracer`) in all three processes.

A *packet* of 20 ms: eight quiet seconds in plain mode.  A file is in its path if one of its functions is entered or
resumed in most tenths of a second, which timers are not.

A *token*: a sentence, read on the screen.  A file is in its path if one of its functions is called with, or returns,
something that holds the word WORD.

Beside that, what can be counted without a run: files in folders, names in import contracts, the longest file and
function.  Not in the path of either.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from shared.audio import RATE
from voxtui.capture.sources import CLIP

PACKAGES = ("shared", "voxd", "voxtui")
WORD = "amiable"  # what the clip's second sentence says once
QUIET_S = 8.0
MOST = 0.5  # of the tenths of a second between the first and the last packet
START_S, SESSION_S = 300.0, 120.0
PROCESSES = ("client", "gateway", "engine")

Seen = dict[str, dict[str, set[int]]]  # process -> file -> tenths of a second; for a word: how often


def follow(tree: Path, clip: Path, word: str) -> list[dict[str, Any]]:
    """One session; what the tracers of its processes wrote."""
    with tempfile.TemporaryDirectory(prefix="vx-", dir="/tmp") as name:
        folder = Path(name)
        python = folder / "python"
        tracer = Path(__file__).with_name("tracer.py")
        told = f"ROOMS_PYTHON={python} ROOMS_OUT={folder} ROOMS_WORD={word} ROOMS_TREE={tree}"
        # A script, since the engine process sees little of the environment.
        python.write_text(f'#!/bin/sh\n{told} exec {tree}/.venv/bin/python {tracer} "$@"\n')
        python.chmod(0o755)
        environ = {**os.environ, "HOME": name, "XDG_RUNTIME_DIR": name, "TERM": "xterm-256color"}
        socket = folder / "voxd.sock"
        started = [str(python), "-m", "voxd", "start", "--socket", str(socket), "--transcribe", "whisper"]
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(started, cwd=tree, env=environ, stdout=log, stderr=log)
        try:
            _wait_for(tree, socket, environ)
            connect = [str(python), "-m", "voxtui", "connect", f"unix:{socket}", "--file", str(clip), "--no-keep"]
            _talk(connect if word else [*connect, "--plain"], tree, environ, screen=bool(word), folder=folder)
        finally:
            daemon.terminate()
            daemon.wait(60)
        lines = [line for path in folder.glob("*.trace") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def _wait_for(tree: Path, socket: Path, environ: dict[str, str]) -> None:
    """Waits until that voxd is ready."""
    latest = time.monotonic() + START_S
    ask = [f"{tree}/.venv/bin/python", "-m", "voxd", "status", "--json", "--socket", str(socket)]
    while True:
        done = subprocess.run(ask, cwd=tree, env=environ, capture_output=True, text=True, check=False)
        if done.returncode == 0 and json.loads(done.stdout)["state"] == "ready":
            return
        if time.monotonic() > latest:
            raise SystemExit(f"voxd did not get ready: {done.stdout}{done.stderr}")
        threading.Event().wait(0.3)


def _talk(command: list[str], tree: Path, environ: dict[str, str], *, screen: bool, folder: Path) -> None:
    """Plain: until the clip is over and the client ends.  On the screen: until a finished utterance held the word."""
    if not screen:
        subprocess.run(command, cwd=tree, env=environ, capture_output=True, timeout=SESSION_S, check=False)
        return
    child, master = pty.fork()
    if child == 0:
        os.chdir(tree)
        os.execve(command[0], command, environ)
    latest, until = time.monotonic() + SESSION_S, float("inf")
    while time.monotonic() < min(latest, until):
        if select.select([master], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):
                os.read(master, 1 << 16)
        if until == float("inf") and _said(folder):
            until = time.monotonic() + 3.0
    os.kill(child, signal.SIGTERM)
    with contextlib.suppress(OSError):
        while os.read(master, 1 << 16):
            pass
    os.waitpid(child, 0)
    os.close(master)


def _said(folder: Path) -> bool:
    return any('"client"' in path.read_text() for path in folder.glob("*.trace"))


def packet_path(tree: Path) -> dict[str, list[str]]:
    """Process -> files that every packet of a quiet session enters."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "quiet.wav"
        noise = np.random.default_rng(1).normal(0, 0.002, int(QUIET_S * RATE))
        soundfile.write(clip, noise, RATE)
        lines = follow(tree, clip, "")
    seen: Seen = defaultdict(lambda: defaultdict(set))
    for line in lines:
        seen[line["process"]][line["file"]].add(line["tenth"])
    audio = [tenths for files in [seen["engine"]] for name, tenths in files.items() if name.endswith("vad.py")]
    busy = sorted(set().union(*audio))[10:-10]  # without the beginning and the end of the session
    window = set(busy)
    return {
        process: sorted(name for name, tenths in seen[process].items() if len(tenths & window) > MOST * len(window))
        for process in PROCESSES
    }


def token_path(tree: Path) -> dict[str, list[str]]:
    """Process -> files through which the word went."""
    lines = follow(tree, CLIP, WORD)
    return {process: sorted({x["file"] for x in lines if x["process"] == process}) for process in PROCESSES}


# ── what can be counted without a run ───────────────────────────────────────────────────────────────────────────────


def counted(tree: Path) -> Iterator[tuple[str, str]]:
    paths = [path for package in PACKAGES for path in sorted((tree / package).rglob("*.py"))]
    folders = Counter(path.parent.relative_to(tree).as_posix() for path in paths)
    most = ", ".join(f"{folder} {count}" for folder, count in folders.most_common(3))
    yield "files, folders", f"{len(paths)} in {len(folders)}; most: {most}"
    yield "names in import contracts", str(len(set(_contract_names(tree))))
    sizes = {path: len(path.read_text().splitlines()) for path in paths}
    longest = max(sizes, key=sizes.__getitem__)
    yield "longest file", f"{longest.relative_to(tree)}, {sizes[longest]} lines"
    lines, where = max(_functions(tree, paths))
    yield "longest function", f"{where}, {lines} lines"


def _contract_names(tree: Path) -> Iterator[str]:
    contracts = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        for key in ("layers", "modules", "source_modules", "forbidden_modules"):
            for text in contract.get(key, ()):
                yield from (part.strip(" ()") for part in text.replace(":", "|").split("|"))


def _functions(tree: Path, paths: list[Path]) -> Iterator[tuple[int, str]]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                yield length, f"{path.relative_to(tree)}:{node.name}"


def main() -> None:
    for tree in [Path(name).resolve() for name in sys.argv[1:] or ["."]]:
        print(f"# {tree.name}")  # noqa: T201
        for what, value in counted(tree):
            print(f"{what}: {value}")  # noqa: T201
        for what, path in (("packet", packet_path(tree)), ("token", token_path(tree))):
            print(f"{what}: {sum(map(len, path.values()))} files")  # noqa: T201
            for process, files in path.items():
                print(f"  {process} {len(files)}: {' '.join(files)}")  # noqa: T201


if __name__ == "__main__":
    main()
