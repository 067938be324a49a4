"""What a running daemon takes from settings that were read again, and what has to wait for a restart.  Beside the path.

    now        limits, the gate, targets, the log's level
    sessions   what a session begins with: those that begin from now on have it, the others keep theirs
    restart    engines, sockets, keys: everything else

Pure.  It does not know files, signals or who applies it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal, NamedTuple

from msgspec import Struct, structs

from shared.settings import Settings

When = Literal["now", "sessions", "restart"]
NOW = frozenset(
    (
        "server.allow_host", "server.allow_origin", "server.max_sessions", "server.drain_s",
        "streaming.latency_target_ms", "performance_targets.ttft_ms", "performance_targets.total_latency_ms",
        "log.level",
    )
)  # fmt: skip
SESSIONS = frozenset(
    (
        "server.strict_models", "server.strict_modalities",
        "vad.threshold", "vad.prefix_padding_ms", "vad.silence_duration_ms", "vad.tentative_ms", "vad.onset_ms",
        "vad.hangover_ms", "vad.max_utterance_s",
        "chunked_response.min_words_per_chunk", "chunked_response.max_words_per_chunk",
        "chunked_response.chunk_timeout_ms",
    )
)  # fmt: skip
WORDS: dict[When, str] = {"now": " (now)", "sessions": " (sessions from now on)", "restart": " needs a restart"}


class Change(NamedTuple):
    """One setting, and when its new value counts."""

    path: str
    before: object
    after: object
    when: When


def changes(old: Settings, new: Settings) -> tuple[Change, ...]:
    """In the order of the settings; the options of an engine are one of them."""
    after = dict(_values(new, ""))
    before = dict(_values(old, ""))
    paths = {**before, **after}
    return tuple(
        Change(path, before.get(path), after.get(path), _when(path))
        for path in paths
        if before.get(path) != after.get(path)
    )


def applied(old: Settings, new: Settings) -> Settings:
    """What counts from now on: `old`, with everything of `new` that takes no restart."""
    result = old
    for change in changes(old, new):
        if change.when != "restart":
            section, key = change.path.split(".")
            result = structs.replace(
                result, **{section: structs.replace(getattr(result, section), **{key: change.after})}
            )
    return result


def line(change: Change) -> str:
    """`vad.threshold 0.5 -> 0.6 (sessions from now on)`.  An engine's options are not shown: a url may hold a key."""
    if change.path.startswith("engine_options."):
        return f"{change.path}{WORDS[change.when]}"
    return f"{change.path} {_text(change.before)} -> {_text(change.after)}{WORDS[change.when]}"


def _when(path: str) -> When:
    return "now" if path in NOW else "sessions" if path in SESSIONS else "restart"


def _values(node: Struct, path: str) -> Iterator[tuple[str, object]]:
    for name in node.__struct_fields__:
        value, place = getattr(node, name), f"{path}.{name}".lstrip(".")
        if isinstance(value, Struct):
            yield from _values(value, place)
        elif isinstance(value, dict):
            yield from ((f"{place}.{key}", options) for key, options in value.items())
        else:
            yield place, value


def _text(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
