"""Values that stand where nobody expects them, and events with one of them in one place, drawn by a seed."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator
from typing import Any

from tests.support import published

SEED = int(os.environ.get("VOXD_SEED", "1"))
DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP] if len(json.dumps(DEEP)) % 2 else {"a": DEEP}
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 1e308, -1e308, 10**19, -(10**30), 10**400, "", "x", "root", "auto", "en-US"),
    *("😀" * 40, "\ud83d", "\u0000\u001b[2J", "x" * 70_000, [], [None], [[]], ["x"], [1, {}], {}, {"a": None}),
    *({"type": "x"}, {"type": None}, {"id": []}, {"type": "message"}, {"": ""}, DEEP),
)
EXTRA = [
    {"type": "voxd.ping", "event_id": "e", "ping_id": "p", "t0": 1},
    {"type": "input_audio_buffer.append", "event_id": "e", "audio": "AAAA", "voxd_offset": 3},
    {
        "type": "session.update",
        "event_id": "e",
        "session": {"type": "realtime", "voxd": {"metrics": True, "delay_ms": 80}},
    },
]
EVENTS = [*(each for found in published.client_events().values() for each in found), *EXTRA]


def places(trees: Iterable[dict[str, Any]] = EVENTS) -> Iterator[tuple[dict[str, Any], published.Path]]:
    """Each place of each kind of tree, once."""
    seen = set()
    for tree in trees:
        for path in published.paths(tree):
            shape = (tree.get("type"), path, type(published.at(tree, path)))
            if path and shape not in seen:
                seen.add(shape)
                yield tree, path


def every(trees: Iterable[dict[str, Any]] = EVENTS) -> Iterator[dict[str, Any]]:
    """Each odd value in each place."""
    for tree, path in places(trees):
        for odd in ODD:
            yield published.put(tree, path, odd)


def some(count: int, seed: int, trees: Iterable[dict[str, Any]] = EVENTS) -> Iterator[dict[str, Any]]:
    """Some of `every`."""
    chance, spots = random.Random(seed), list(places(trees))
    for _ in range(count):
        tree, path = chance.choice(spots)
        yield published.put(tree, path, chance.choice(ODD))


def twice(count: int, seed: int, trees: Iterable[dict[str, Any]] = EVENTS) -> Iterator[dict[str, Any]]:
    """An odd value, and another one at or below it or beside it."""
    chance, spots = random.Random(seed), list(places(trees))
    for _ in range(count):
        tree, path = chance.choice(spots)
        odd = published.put(tree, path, chance.choice(ODD))
        if below := list(_down(odd, chance)):
            odd = published.put(odd, chance.choice(below), chance.choice(ODD))
        yield odd


def _down(tree: Any, chance: random.Random) -> Iterator[published.Path]:
    """The places on one way down, from the first to the deepest."""
    path: published.Path = ()
    while isinstance(tree, (dict, list)) and tree:
        key = chance.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        path, tree = (*path, key), tree[key]
        yield path
