"""Files: streams of which nobody reads along are decoded in full windows of 30 s, several utterances in one.  Step 8.

Pure, but for the pool that it is given.  Whisper encodes 30 s, so an utterance of 5 s in a window of its own wastes
most of the work.  What is committed is cut into *pieces* of at most `WINDOW`, and as many consecutive pieces as fit go
into one window, with a little silence between them.  The words that come out lie somewhere in the window (the model's
attention tells where), and so belong to one of its pieces.

A model sometimes stops in the middle of a window.  So pieces at its end that got no words, though the VAD hears voice
in them, go into the next window.

A window is two pieces of work for a worker, encoding and writing, so that a live decode never waits for both.  While a
stream has a window at work, further ones are made only of what fills them; else of whatever is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.audio import RATE, VAD_FRAME, Float32, Ring, pcm16_to_float, to_samples
from voxd.engine.agreement import Transcript, split
from voxd.engine.contract import LONGEST, LOOK_BACK
from voxd.engine.voice import Voice
from voxd.engine.whisper.model import Model
from voxd.engine.whisper.scheduler import Decode, Kind
from voxd.engine.whisper.timed import Encoded, TimedWord, Written
from voxd.engine.whisper.workers import Pool, Result
from voxd.messages import (
    Cancel,
    Close,
    Commit,
    EngineCommand,
    Failed,
    Feed,
    Heard,
    Onset,
    Open,
    Output,
    Said,
    Settled,
    Word,
)

WINDOW = 28 * RATE  # samples of a window that are filled; whisper sees 30 s
LEAST = 20 * RATE  # no piece is cut shorter
GAP = to_samples(500)  # silence between two pieces of a window; with less, words at their ends are lost
TRIES = 2  # windows after the first that a piece without words goes into
ROOM = to_samples(200)  # heard before the start that it is told, as for live speech


@dataclass(frozen=True, slots=True)
class Encode:
    """The first half of the work on a window."""

    samples: Float32

    def run(self, model: Model) -> Encoded:
        return model.encode(self.samples)


@dataclass(frozen=True, slots=True)
class Write:
    """The second half."""

    encoded: Encoded
    language: str | None
    prompt: str

    def run(self, model: Model) -> Written:
        return model.write(self.encoded, self.language, self.prompt)


Work = Encode | Write


@dataclass(slots=True, eq=False)
class _Utterance:
    ref: int
    start: int
    text: Transcript
    end: int | None = None  # told by Commit
    cut: bool = False  # into pieces
    left: int = 0  # pieces that have no text yet
    words: list[Word] = field(default_factory=list)
    language: str | None = None
    failed: bool = False
    compute_us: int = 0


@dataclass(slots=True, eq=False)
class _Piece:
    """Samples [start, end) of an utterance."""

    of: _Utterance
    start: int
    end: int
    tries: int = 0  # windows in which it got no words


@dataclass(slots=True, eq=False)
class _Window:
    pieces: list[_Piece]
    samples: Float32
    wall_us: int = 0
    written: Written | None = None
    done: bool = False


@dataclass(slots=True)
class _File:
    ring: Ring
    voice: Voice
    language: str | None
    prompt: str
    over: int  # audio before it belongs to utterances that are committed
    utterances: dict[int, _Utterance] = field(default_factory=dict)  # not settled, in order of onset
    queue: deque[_Piece] = field(default_factory=deque)  # bound: the audio that the gateway feeds ahead
    windows: deque[_Window] = field(default_factory=deque)  # at work, in order


class Files:
    """`out` takes the outputs; `workers()`: windows at work at the same time, of all files together."""

    def __init__(self, pool: Pool[Work, Encoded | Written], out: list[Output], workers: Callable[[], int]) -> None:
        self._pool, self._out, self._workers = pool, out, workers
        self._files: dict[int, _File] = {}
        self._at_work: dict[Decode[Work], _Window] = {}

    def __contains__(self, stream: int) -> bool:
        return stream in self._files

    def __len__(self) -> int:
        return len(self._files)

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Open):
            self._open(command)
            return
        number, file = command.stream, self._files[command.stream]
        match command:
            case Feed(pcm=pcm):
                file.ring.append(pcm)
            case Heard(start=start, probabilities=probabilities):
                file.voice.append(start, probabilities)
            case Onset(ref=ref, start=start, said=said):
                begin = max(start - ROOM, file.over, file.ring.start)
                file.utterances[ref] = _Utterance(ref, begin, Transcript(said))
            case Commit(ref=ref, end=end) if (utterance := file.utterances.get(ref)) is not None:
                utterance.end = file.over = end
            case Cancel(ref=ref) if (utterance := file.utterances.pop(ref, None)) is not None:
                file.queue = deque(piece for piece in file.queue if piece.of is not utterance)
            case Close():
                self._close(number)
                return
        self._cut(file)
        self._go_on(number, file)

    def _open(self, command: Open) -> None:
        file = self._files.get(command.stream)
        if file is None:
            ring, voice = Ring(LONGEST, command.start), Voice(command.start)
            self._files[command.stream] = _File(ring, voice, command.language, command.prompt, command.start)
        else:
            file.language, file.prompt = command.language, command.prompt

    def _close(self, number: int) -> None:
        del self._files[number]
        self._pool.withdraw(number)
        self._at_work = {request: window for request, window in self._at_work.items() if request.stream != number}
        self._out[:] = [output for output in self._out if output.stream != number]

    def _cut(self, file: _File) -> None:
        """Makes pieces of the utterances that are committed and were heard to their end."""
        for utterance in file.utterances.values():
            if utterance.end is None or file.voice.end <= utterance.end - VAD_FRAME:
                break
            if utterance.cut:
                continue
            utterance.cut = True
            for piece in self._pieces(file.voice, utterance, utterance.end):
                utterance.left += 1
                file.queue.append(piece)
        first = min((each.start for each in file.utterances.values()), default=file.ring.end)
        before = min(file.ring.end - LOOK_BACK, first)
        file.ring.trim(before)
        file.voice.trim(before)

    @staticmethod
    def _pieces(voice: Voice, utterance: _Utterance, end: int) -> Iterable[_Piece]:
        start = utterance.start
        while end - start > WINDOW:
            cut = voice.cut(start + LEAST, start + WINDOW, pause_only=False) or start + WINDOW
            yield _Piece(utterance, start, cut)
            start = cut
        if voice.first_voiced(start, end) is not None:
            yield _Piece(utterance, start, end)

    # ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _go_on(self, number: int, file: _File) -> None:
        """Publishes what is ready and gives the workers what they can take."""
        self._publish(number, file)
        while len(self._at_work) < self._workers() and (window := self._next(file)) is not None:
            file.windows.append(window)
            self._submit(number, window, Encode(window.samples))

    def _submit(self, number: int, window: _Window, work: Encode | Write) -> None:
        request: Decode[Work] = Decode(number, window.pieces[0].of.ref, Kind.FILE, work)
        self._at_work[request] = window
        self._pool.submit(request)

    def _next(self, file: _File) -> _Window | None:
        """The pieces at the head of the queue that fill a window; fewer only if the file has none at work."""
        size, count = 0, 0
        for piece in file.queue:
            grown = size + (GAP if count else 0) + piece.end - piece.start
            if count and grown > WINDOW:
                break
            size, count = grown, count + 1
        if not count or (count == len(file.queue) and file.windows):
            return None
        pieces = [file.queue.popleft() for _ in range(count)]
        return _Window(pieces, self._samples(file.ring, pieces))

    @staticmethod
    def _samples(ring: Ring, pieces: Sequence[_Piece]) -> Float32:
        parts: list[Float32] = []
        for piece in pieces:
            if parts:
                parts.append(np.zeros(GAP, np.float32))
            parts.append(pcm16_to_float(ring.read(piece.start, piece.end)[1]))
        return np.concatenate(parts)

    # ── results ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, result: Result[Work, Encoded | Written]) -> None:
        """A worker has done half of a window."""
        window = self._at_work.pop(result.request, None)
        if window is None:
            return
        number, file = result.request.stream, self._files[result.request.stream]
        window.wall_us += result.wall_us
        if isinstance(result.value, Encoded):
            self._submit(number, window, Write(result.value, file.language, file.prompt))
            return
        window.done, window.written = True, result.value
        for other, each in list(self._files.items()):
            self._go_on(other, each)

    def _publish(self, number: int, file: _File) -> None:
        """The texts of the windows that are done, in the order of the audio."""
        while file.windows and file.windows[0].done:
            self._share(number, file, file.windows.popleft())
        for utterance in list(file.utterances.values()):
            if not utterance.cut or utterance.left:
                break
            del file.utterances[utterance.ref]
            self._out.append(_ending(number, utterance))

    def _share(self, number: int, file: _File, window: _Window) -> None:
        """Gives the words of a window to its pieces."""
        shares = shared_out(window.pieces, window.written.words if window.written is not None else ())
        while len(shares) > 1 and not shares[-1] and window.pieces[-1].tries < TRIES and window.written is not None:
            shares.pop()
            piece = window.pieces.pop()
            piece.tries += 1
            file.queue.appendleft(piece)
        whole = sum(piece.end - piece.start for piece in window.pieces)
        for piece, words in zip(window.pieces, shares, strict=True):
            utterance = piece.of
            utterance.left -= 1
            utterance.compute_us += window.wall_us * (piece.end - piece.start) // whole
            if utterance.ref not in file.utterances:
                continue  # cancelled
            if window.written is None:
                utterance.failed = True
                continue
            utterance.language = utterance.language or window.written.language
            utterance.words += [Word(word.text.strip(), word.start, word.end) for word in words]
            new = utterance.text.finish(split("".join(word.text for word in words)))
            if new:
                self._out.append(Said(number, utterance.ref, new, "", piece.end))


def _ending(number: int, utterance: _Utterance) -> Settled | Failed:
    if utterance.failed:
        return Failed(number, utterance.ref, "engine_error", "the speech model failed on this utterance")
    return Settled(
        number,
        utterance.ref,
        "completed",
        utterance.text.text,
        compute_us=utterance.compute_us,
        words=tuple(utterance.words),
        language=utterance.language,
    )


def shared_out(pieces: Sequence[_Piece], words: Iterable[TimedWord]) -> list[list[TimedWord]]:
    """The words of a window, each with the piece that its middle lies in or nearest to, in samples of the stream."""
    shares: list[list[TimedWord]] = [[] for _ in pieces]
    places, at = [], 0  # where each piece begins and ends in the window
    for piece in pieces:
        places.append((at, at + piece.end - piece.start))
        at = places[-1][1] + GAP
    for word in words:
        middle = (word.start + word.end) // 2
        near = min(range(len(places)), key=lambda n: max(places[n][0] - middle, middle - places[n][1], 0))
        (begin, _), piece = places[near], pieces[near]
        start, end = (min(max(x - begin + piece.start, piece.start), piece.end) for x in (word.start, word.end))
        shares[near].append(TimedWord(word.text, start, end))
    return shares
