"""Files in the embedded CPU engine: what goes into a window, whose words come out, and who goes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shared.audio import RATE, VAD_FRAME, Float32
from tests.support.scripted_whisper import Script, SyncPool
from voxd.engine.whisper.engine import Whisper
from voxd.engine.whisper.files import GAP, WINDOW
from voxd.engine.whisper.scheduler import Kind
from voxd.engine.whisper.timed import Encoded, TimedWord, Written, timed_words
from voxd.messages import Cancel, Close, Commit, Failed, Feed, Heard, Onset, Open, Output, Said, Settled

TOLD = 25 * VAD_FRAME  # of audio in a scripted word: 0.8 s


class Reader(Script):
    """Hears one word in each TOLD of sound: `w` and the value of its samples.  `most`: it stops after so many."""

    def __init__(self) -> None:
        super().__init__("en")
        self.windows: list[Float32] = []
        self.most = 1000

    def encode(self, samples: Float32) -> Encoded:
        self.windows.append(samples)
        if self.fail:
            raise RuntimeError("secret internals")
        return Encoded(samples, samples.size)

    def write(self, encoded: Encoded, language: str | None, prompt: str) -> Written:
        values = np.rint(np.asarray(encoded.features) * 32768).astype(int)
        words, at = [], 0
        while at < values.size and len(words) < self.most:
            if values[at]:
                words.append(TimedWord(f" w{values[at]}", at, min(at + TOLD, values.size)))
                at += TOLD
            else:
                at += 1
        return Written(tuple(words), "en", len(words))


class Desk:
    """The other side of the engine: files of scripted words in, outputs out."""

    def __init__(self, **options: object) -> None:
        self.model = Reader()
        pools: list[SyncPool] = []

        def make_pool(count: int, work: Callable[[Any], Any], wake: Callable[[], None]) -> SyncPool:
            pools.append(SyncPool(count, work, wake))
            return pools[0]

        self.engine = Whisper(options, lambda: None, lambda _options, _progress: self.model, make_pool)
        self.engine.load(lambda text: None)
        self.pool, self.out = pools[0], list[Output]()
        self.ends: dict[int, int] = {}

    def open(self, stream: int, **more: Any) -> None:
        self.engine.receive(Open(stream, ("transcribe",), **{"hurry": True, **more}))
        self.ends[stream] = 0

    def hear(self, stream: int, value: int, frames: int, voice: float = 1.0) -> int:
        """So many frames of samples with this value; returns where they begin."""
        start = self.ends[stream]
        pcm = np.full(frames * VAD_FRAME, value, "<i2").tobytes()
        self.engine.receive(Feed(stream, start, pcm))
        self.engine.receive(Heard(stream, start, (voice,) * frames))
        self.ends[stream] += frames * VAD_FRAME
        return start

    def say(self, stream: int, ref: int, words: int, pause: int = 20) -> None:
        """An utterance of so many words, each with the value `ref`, and silence behind it."""
        self.hear(stream, 0, pause, 0.0)
        start = self.hear(stream, ref, TOLD // VAD_FRAME)
        self.engine.receive(Onset(stream, ref, start))
        self.hear(stream, ref, (words - 1) * TOLD // VAD_FRAME)
        self.hear(stream, 0, pause, 0.0)
        self.engine.receive(Commit(stream, ref, start + words * TOLD))

    def step(self) -> list[Output]:
        new = list(self.engine.step(0))
        self.out += new
        return new

    def work(self) -> None:
        """Until nobody has anything to do."""
        self.pool.take()
        while self.pool.held:
            self.pool.run()
            self.step()
            self.pool.take()

    def texts(self, stream: int) -> dict[int, str]:
        return {out.ref: out.text for out in self.out if isinstance(out, Settled) and out.stream == stream}


def test_utterances_share_windows_and_each_gets_its_words() -> None:
    desk = Desk()
    desk.open(1)
    for ref in range(1, 13):
        desk.say(1, ref, words=5)
    desk.work()
    assert desk.texts(1) == {ref: " ".join([f"w{ref}"] * 5) for ref in range(1, 13)}
    assert list(desk.texts(1)) == list(range(1, 13)), "in the order of the audio"
    first, *rest = desk.model.windows
    assert first.size < 6 * RATE, "the first utterance does not wait for others"
    assert len(rest) == 2
    assert all(window.size <= WINDOW + GAP for window in rest)
    settled = [out for out in desk.out if isinstance(out, Settled)]
    for out in settled:
        assert [word.text for word in out.words] == out.text.split()
        assert all(a.end <= b.start for a, b in zip(out.words, out.words[1:], strict=False))
        assert out.language == "en"
    assert settled[0].words[-1].end < settled[1].words[0].start


def test_a_long_utterance_is_cut_and_stays_one() -> None:
    desk = Desk()
    desk.open(1)
    desk.say(1, 7, words=90)
    desk.work()
    assert 3 <= len(desk.model.windows) <= 4
    (text,) = desk.texts(1).values()
    assert text.split() == ["w7"] * len(text.split())
    assert len(text.split()) >= 90
    assert "".join(out.text for out in desk.out if isinstance(out, Said)) == text


def test_what_a_window_leaves_out_is_heard_again_once() -> None:
    desk = Desk()
    desk.open(1)
    desk.say(1, 1, words=2)  # is at work while the others come
    for ref in (2, 3, 4):
        desk.say(1, ref, words=5)
    desk.model.most = 5
    desk.work()
    assert desk.texts(1) == {1: "w1 w1"} | {ref: " ".join([f"w{ref}"] * 5) for ref in (2, 3, 4)}
    desk.model.most = 0
    desk.say(1, 5, words=5)
    desk.work()
    assert desk.texts(1)[5] == "", "nothing is asked for ever"


def test_cancelled_closed_silent_and_broken() -> None:
    desk = Desk()
    for stream in (1, 2):
        desk.open(stream)
        desk.say(stream, 1, words=3)
        desk.say(stream, 2, words=3)
    desk.engine.receive(Cancel(1, 2))
    desk.engine.receive(Close(2))
    start = desk.hear(1, 0, 40, 0.0)
    desk.engine.receive(Onset(1, 3, start))
    desk.engine.receive(Commit(1, 3, start + 20 * VAD_FRAME))
    desk.work()
    assert desk.texts(1) == {1: "w1 w1 w1", 3: ""}
    assert not [out for out in desk.out if out.stream == 2]
    desk.model.fail = True
    desk.say(1, 4, words=3)
    desk.work()
    assert isinstance(desk.out[-1], Failed)
    assert "secret" not in desk.out[-1].message
    desk.model.fail = False
    desk.say(1, 5, words=3)
    desk.work()
    assert desk.texts(1)[5] == "w5 w5 w5"


def test_text_that_a_client_has_is_not_said_again() -> None:
    desk = Desk()
    desk.open(1)
    start = desk.hear(1, 3, 5 * TOLD // VAD_FRAME)  # 4 s
    desk.engine.receive(Onset(1, 1, start, "w3 w3"))
    desk.hear(1, 0, 20, 0.0)
    desk.engine.receive(Commit(1, 1, start + 5 * TOLD))
    desk.work()
    assert desk.texts(1) == {1: "w3 w3 w3 w3 w3"}
    assert "".join(out.text for out in desk.out if isinstance(out, Said)) == " w3 w3 w3"


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_who_speaks_goes_first(workers: int) -> None:
    desk = Desk(workers=workers)
    desk.open(1)
    desk.open(2, hurry=False)
    for ref in range(1, 20):
        desk.say(1, ref, words=8)
    desk.say(2, 1, words=4)
    desk.pool.take()
    assert desk.pool.held[0].stream == 2
    files = sum(request.kind is Kind.FILE for request in desk.pool.held)
    assert 0 < files <= max(1, workers - 1), "one worker is left to who speaks"


def test_punctuation_belongs_to_the_word_before_it() -> None:
    found = [
        {"word": " “", "start": 0.0, "end": 2.0},
        {"word": "Go", "start": 2.0, "end": 4.0},
        {"word": ",", "start": 4.0, "end": 4.2},
        {"word": " on", "start": 4.2, "end": 9.0},
        {"word": ".”", "start": 9.0, "end": 9.1},
    ]
    words = timed_words(found)
    assert [word.text for word in words] == [" “Go,", " on.”"]
    assert [(word.start, word.end) for word in words] == [(3 * RATE, 4 * RATE), (67_200, 83_200)]
