"""Decides which changed settings a running daemon applies, and which have to wait for a restart.  Not in the path.

    now        limits, the gate, targets and the log's level apply at once
    sessions   what a session begins with applies to sessions that begin from now on; the others keep their values
    restart    everything else (engines, sockets, keys) needs a restart

Pure.  It does not know files, signals or who applies the settings.
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
    """A changed setting, and when its new value applies."""

    path: str
    before: object
    after: object
    when: When


def changes(old: Settings, new: Settings) -> tuple[Change, ...]:
    """The changed settings, in the order of the settings file.  All options of an engine count as one setting."""
    after = dict(_values(new, ""))
    before = dict(_values(old, ""))
    paths = {**before, **after}
    return tuple(
        Change(path, before.get(path), after.get(path), _when(path))
        for path in paths
        if before.get(path) != after.get(path)
    )


def applied(old: Settings, new: Settings) -> Settings:
    """The settings to use from now on: `old` with everything of `new` that needs no restart."""
    result = old
    for change in changes(old, new):
        if change.when != "restart":
            section, key = change.path.split(".")
            result = structs.replace(
                result, **{section: structs.replace(getattr(result, section), **{key: change.after})}
            )
    return result


def line(change: Change) -> str:
    """A change as the log shows it: `vad.threshold 0.5 -> 0.6 (sessions from now on)`.

    The values of an engine's options are not shown, because a URL may contain a key."""
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
