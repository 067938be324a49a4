"""Voxtral Mini under test: a gateway that tells it what happens, and a device that is no model but has all its faults.

`Paper` keeps what was written into which page and says a hash of everything that a sequence holds: so a position that
is missing, stale, in the wrong page or of the wrong window changes every id that follows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from tests.support.feeding import Feeding
from tests.support.tiny_voxtral import Samples
from voxd.engine.gpu.batch import Row, Runner
from voxd.engine.mini.engine import VoxtralMini
from voxd.engine.mini.interface import (
    LAST_TOKEN,
    OF_PAGE,
    PAGE,
    PER_WINDOW,
    POSITION,
    SLOT,
    SOURCE,
    SPAN,
    WANTED,
    MiniDevice,
    SpecialTokens,
)
from voxd.engine.mini.windows import WindowedAudio, write_samples
from voxd.messages import (
    Close,
    Crop,
    Failed,
    Onset,
    Open,
    Output,
    Prepare,
    Respond,
    Role,
    Said,
    Settled,
    Speculate,
    Turn,
    Warned,
)

EOS = 2


@dataclass
class Free:
    """Slots, pages or places; 0 is nobody's."""

    count: int
    taken: set[int] = field(default_factory=set)

    @property
    def free(self) -> int:
        return self.count - len(self.taken)

    def take(self) -> int:
        found = next(i for i in range(1, self.count + 1) if i not in self.taken)
        self.taken.add(found)
        return found

    def give(self, number: int) -> None:
        self.taken.remove(number)


@dataclass(frozen=True)
class Done:
    said: list[int]
    took_us: int = 1000

    def token_ids(self) -> list[int]:
        return self.said


def after(contents: Sequence[int]) -> int:
    """The id that follows what a sequence holds."""
    found = zlib.crc32(np.array(contents, np.int64).tobytes())
    return EOS if found % 23 == 0 else 1000 + found % 400


def embeddings(body: bytes, higher: float) -> int:
    """What stands for the embeddings of a window, the first of PER_WINDOW numbers: a function of its samples, and of
    the highest value of the clip if it has values that low."""
    own, lowest = extent(body)
    clamp = float(np.float32(max(own, higher)))
    return zlib.crc32(body, int(clamp * 1000) if lowest < clamp - 8 else 0) * PER_WINDOW


def extent(body: bytes) -> tuple[float, float]:
    """A window's highest and lowest value."""
    loud = np.abs(np.frombuffer(body, np.int16).astype(np.int64))
    return float(np.log10(1 + loud.max())), float(np.log10(1 + loud.min())) - 6.0


class Paper:
    """A device with so many slots, pages and places."""

    def __init__(self, slots: int = 6, pages: int = 60, places: int = 4, chunk: int = 100, batch: int = 3) -> None:
        self.slots, self.pages, self.places = Free(slots), Free(pages), Free(places)
        self.written: dict[int, int] = {}  # by page * PAGE + offset
        self.table: dict[tuple[int, int], int] = {}
        self.said: dict[int, int] = {}
        self.at: dict[int, int] = {}
        self.windows = self.positions = 0
        special = SpecialTokens(
            1, EOS, 3, 4, 17, 18, 25, 34, tuple(f"{i} ".encode() if i > 99 else b"" for i in range(1500)), encode
        )
        self.device = MiniDevice(
            encoder=_Runner(self._encode, 1), prefill=_Runner(self._prefill, chunk),
            decode=_Runner(self._decode, batch),
            slots=self.slots, pages=self.pages, places=self.places, keep=self.at.__getitem__, put=self._put,
            special=special, context=3000,
        )  # fmt: skip

    def _put(self, kept: object, place: int) -> None:
        assert isinstance(kept, int)
        self.at[place] = kept

    def _encode(self, table: Sequence[Row] | np.ndarray) -> list[int]:
        assert isinstance(table, np.ndarray)
        (place, higher), body = table[0, :2].tolist(), table[0, 2:].tobytes()
        self.windows += 1
        self.at[place] = embeddings(body, float(np.int32(higher).view(np.float32)))
        highest, lowest = extent(body)
        bits = np.array([highest, lowest], np.float32).view(np.uint32).astype(object)
        return [int(bits[0]) << 32 | int(bits[1])]

    def _prefill(self, table: Sequence[Row] | np.ndarray) -> list[int]:
        assert isinstance(table, np.ndarray)
        assert len(set(table[:, SLOT])) == 1
        assert np.all(np.diff(table[:, POSITION]) == 1)
        said = [self._write(row) for row in table]
        return said[-1:] if table[-1, WANTED] else [0]

    def _decode(self, table: Sequence[Row] | np.ndarray) -> list[int]:
        assert isinstance(table, np.ndarray)
        assert len(set(table[:, SLOT])) == len(table), "a sequence twice in one batch"
        return [self._write(row) for row in table]

    def _write(self, row: np.ndarray) -> int:
        slot, position, source, page = (int(row[i]) for i in (SLOT, POSITION, SOURCE, OF_PAGE))
        assert slot in self.slots.taken
        assert page in self.pages.taken
        self.positions += 1
        self.table[slot, position // PAGE] = page
        if source == LAST_TOKEN:
            source = self.said[slot]
        if source < 0:
            place, index = divmod(-1 - source, PER_WINDOW)
            assert place in self.places.taken
            source = self.at[place] + index
        self.written[page * PAGE + position % PAGE] = source
        if not row[WANTED]:
            return 0
        pages = [self.table[slot, i // PAGE] for i in range(position + 1)]
        self.said[slot] = after([self.written[page * PAGE + i % PAGE] for i, page in enumerate(pages)])
        return self.said[slot]


class _Runner:
    def __init__(self, compute: object, largest: int) -> None:
        self._compute, self.largest = compute, largest

    def submit(self, rows: Sequence[Row] | np.ndarray) -> Done:
        assert len(rows) <= self.largest
        return Done(self._compute(rows))  # type: ignore[operator]


class _Untimed:
    """A device whose steps all take 1 ms: what the engine begins must not depend on how busy this machine is."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self.largest = runner, runner.largest

    def submit(self, rows: Sequence[Row] | np.ndarray) -> Done:
        return Done(self._runner.submit(rows).token_ids())


def encode(text: str) -> list[int]:
    return [1000 + ord(char) % 400 for char in text]


def contents(pcm: bytes) -> list[int]:
    """The embeddings of a whole clip, made in one piece."""
    numbers = iter(range(1000))
    clip = WindowedAudio(lambda: next(numbers), lambda window: None)
    clip.end(len(pcm) // 2)
    bodies = []
    for window in clip.windows:
        around = np.empty(SPAN, np.int16)
        write_samples(window, lambda begin, end: pcm[2 * begin : 2 * end], around)
        bodies.append(around.tobytes())
    highest = max(extent(body)[0] for body in bodies)
    return [first + index for first in (embeddings(body, highest) for body in bodies) for index in range(PER_WINDOW)]


def follows(prompt: Sequence[int], most: int) -> list[int]:
    """The ids of the answer to these contents, without what ends it."""
    token_ids: list[int] = []
    while len(token_ids) < most and (found := after([*prompt, *token_ids])) != EOS:
        token_ids.append(found)
    return token_ids


def as_text(token_ids: Sequence[int]) -> str:
    return "".join(f"{each} " for each in token_ids)


@dataclass
class Gateway(Feeding):
    """Feeds clips to an engine and writes down what it says."""

    begun: dict[int, set[int]] = field(default_factory=dict)
    said: dict[tuple[int, int], str] = field(default_factory=dict)
    settled: dict[tuple[int, int], Settled] = field(default_factory=dict)
    failed: dict[tuple[int, int | None], Failed] = field(default_factory=dict)
    warned: list[Warned] = field(default_factory=list)

    def open(self, stream: int, clip: Samples, *roles: Role, language: str | None = None) -> None:
        self.give(stream, clip)
        self.begun[stream] = set()
        self.tell(Open(stream, roles or ("respond",), language))

    def onset(self, stream: int, ref: int, start: int = 0, before: tuple[Turn, ...] | None = None) -> None:
        self.begun[stream].add(ref)
        self.tell(Onset(stream, ref, start))
        if before is not None:
            self.tell(Prepare(stream, ref, before))

    def speculate(self, stream: int, ref: int, utterance: int, end: int, context: tuple[Turn, ...], most: int) -> None:
        self.tell(Speculate(stream, ref, utterance, end, context, most))

    def crop(self, stream: int, ref: int) -> None:
        self.tell(Crop(stream, ref))

    def respond(self, stream: int, ref: int, context: tuple[Turn, ...], most: int, *, aside: bool = False) -> None:
        self.tell(Respond(stream, ref, context, most, aside))

    def note(self, output: Output) -> None:
        match output:
            case Said(stream=stream, ref=ref):
                assert (stream, ref) not in self.settled
                self.said[stream, ref] = self.said.get((stream, ref), "") + output.text
            case Settled(stream=stream, ref=ref):
                assert (stream, ref) not in self.settled
                assert output.text == self.said.get((stream, ref), "")
                self.settled[stream, ref] = output
            case Failed(stream=stream, ref=ref):
                self.failed[stream, ref] = output
            case Warned():
                self.warned.append(output)
            case _:
                raise AssertionError(output)


@contextmanager
def gateway(made: MiniDevice, options: Mapping[str, object] = {}) -> Iterator[Gateway]:
    """An engine on this device, whose text is the list of its ids; at the end all streams are closed, and every slot,
    page and place must be free again."""
    pieces = tuple(f"{i} ".encode() for i in range(len(made.special.pieces)))
    made = replace(
        made,
        special=replace(made.special, pieces=pieces),
        encoder=_Untimed(made.encoder),
        prefill=_Untimed(made.prefill),
        decode=_Untimed(made.decode),
    )
    engine = VoxtralMini(options, lambda: None, lambda options, progress: made)
    engine.load(lambda text: None)
    found = Gateway(engine)
    try:
        yield found
    finally:
        for stream in found.clips:
            engine.receive(Close(stream))
        found.rest()
    for store in (made.slots, made.pages, made.places):
        assert store.free == store.count
