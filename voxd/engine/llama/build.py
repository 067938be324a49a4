"""Loads the model of the engine `llama` and says what it takes.  Not in the packet's path.

It knows files, memory and cores; not requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from voxd.engine.contract import Unusable
from voxd.engine.llama.gguf import GgufHeader, NotGguf, read_header
from voxd.engine.llama.library import Library, devices
from voxd.engine.llama.options import BUILT_IN, LlamaOptions
from voxd.engine.llama.weights import OPTION, TOY, find_weights

WARM_UP: dict[str, object] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
MEMINFO = Path("/proc/meminfo")


def load_model(options: LlamaOptions, progress: Callable[[str], None]) -> tuple[Library, int, tuple[str, ...]]:
    """The model, the tokens of its context per conversation, and lines for the user.  Raises Unusable."""
    options = options.resolved(cores())
    path = find_weights(options.model, os.environ)
    header = _header(path)
    context = min(options.max_context, header.context or options.max_context)
    size, cache = path.stat().st_size, header.per_token * context * options.slots
    on_gpu = devices() if options.gpu_layers else ()
    free = _free_memory()
    if not on_gpu and free is not None and size + cache > free:
        raise Unusable(
            f"engine 'llama': {path.name} takes {_gb(size)} and the cache of {options.slots} conversations "
            f"{_gb(cache)}; {_gb(free)} are free: choose a smaller model or quantisation, or lower "
            "engine_options.llama.max_context or slots"
        )
    progress(f"loading {path.name}")
    model = Library(path, options, context)
    progress("warming up")
    model.generate(WARM_UP, 0, lambda piece: False)
    where = f"on {', '.join(on_gpu)}" if on_gpu else f"on the CPU, {_count(options.threads, 'thread')}"
    room = f"{_count(options.slots, 'conversation')} of {context} tokens ready"
    notes = [f"llama {header.name} {where}: {_gb(size)} of weights, {_gb(cache)} for {room}"]
    if options.model == BUILT_IN:
        notes.append(f"{TOY}: {OPTION} chooses another")
    return model, context, tuple(notes)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _header(path: Path) -> GgufHeader:
    try:
        header = read_header(path)
    except NotGguf as reason:
        raise Unusable(f"{OPTION}: {path} cannot be used: {reason}") from None
    except OSError as error:
        raise Unusable(f"{OPTION}: {path} cannot be read: {error.strerror}") from None
    if header.architecture == "clip":
        raise Unusable(f"{OPTION}: {path} is only a projector, the part that hears or sees: name the model beside it")
    return header


def _free_memory() -> int | None:
    """Bytes that programs may still take; None: this system does not say."""
    try:
        lines = MEMINFO.read_text("ascii").splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return 1024 * int(next(found, 0)) or None


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
