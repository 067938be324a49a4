"""What a run under faults must have kept, read from its history.  Pure: `violations(history)` is a list of sentences.

    own        no word of another client, in a transcript or in an answer
    settled    a word is in one final transcript at most, over all links and sessions
    lost       a word that an undisturbed run writes down is in a final transcript, unless it lies in an utterance that
               was told to have failed, or in sound that was counted as lost
    gaps       sound is lost only when it is older than what a client keeps (30 s), and exactly as much is shown
    ends       every response and item of a session ends once, in the order of the wire (`tests.support.checker`); a
    session
               that died with its gateway ends with it.  An answer has all its tokens in order
    causes     a turn fails only behind a fault that explains it
    screen     nothing is left open, and each utterance stands at its place in the sound
    journal    one start for each session id, one end unless the process was killed; no traceback

The words are those of `tests.chaos.scribe`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

from shared.audio import RATE, to_ms, to_samples
from shared.events import (
    Notice,
    OutputTextDelta,
    ResponseDone,
    ServerEvent,
    SessionCreated,
    SpeechStarted,
    SpeechStopped,
    TranscriptionCompleted,
    TranscriptionDelta,
    TranscriptionFailed,
    dump,
)
from tests.support.checker import WireChecker
from voxtui.events import Relinked, Unlinked
from voxtui.link.replay import KEEP
from voxtui.session.transcript import EntryProgress, State, reduce

BLAME_US = 60_000_000  # a fault explains what fails so long after its end
BEHIND_GAP = RATE  # the word behind a gap may be cut
SLACK = RATE // 2  # samples between a loss and the moment when it is seen
ENGINE, GATEWAY, LINK = "engine", "gateway", "link"
EXPLAINS = {"engine_lost": {ENGINE, GATEWAY}, "connection_lost": {LINK, GATEWAY, ENGINE}}


@dataclass(frozen=True, slots=True)
class Mark:
    """A word in the sound of a client; `owed`: an undisturbed run writes it down."""

    word: str
    position: int
    owed: bool


@dataclass(frozen=True, slots=True)
class Record:
    """Something that a client was told, and how many samples it had captured by then."""

    at_us: int
    captured: int
    event: ServerEvent | Unlinked | Relinked


@dataclass(frozen=True, slots=True)
class Fault:
    """`target`: ENGINE, GATEWAY or LINK of client number `client`."""

    kind: str
    target: str
    begin_us: int
    end_us: int
    client: int | None = None


@dataclass(slots=True)
class Client:
    """`holes`: sound that it says no server will turn into text, first and last sample, and how many samples it had
    captured when it said so first; `lost_ms`: how much of it was shown.

    `trouble`: why it gave up, or what it still waited for at the end."""

    number: int
    marks: Sequence[Mark]
    tokens: int  # in a whole answer
    records: list[Record] = field(default_factory=list)
    holes: list[tuple[int, int, int]] = field(default_factory=list)
    lost_ms: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """What one gateway process wrote to its log."""

    log: str
    killed: bool


@dataclass(slots=True)
class History:
    clients: list[Client] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)


def violations(history: History) -> list[str]:
    found = [text for client in history.clients for text in _of_client(client, history.faults)]
    return [*found, *_journal(history.lives)]


def _of_client(client: Client, faults: Sequence[Fault]) -> Iterator[str]:
    rules = _own(client), _settled(client), _lost(client), _gaps(client), _ends(client), _answers(client)
    for rule in (*rules, _causes(client, faults), _screen(client)):
        yield from (f"client {client.number}: {text}" for text in rule)
    if client.trouble:
        yield f"client {client.number}: {client.trouble}"


def _finals(client: Client) -> Iterator[TranscriptionCompleted]:
    return (r.event for r in client.records if isinstance(r.event, TranscriptionCompleted))


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _own(client: Client) -> Iterator[str]:
    for record in client.records:
        match record.event:
            case TranscriptionDelta(delta=text) | TranscriptionCompleted(transcript=text):
                ours = f"{client.number}."
            case OutputTextDelta(delta=text):
                ours = f"{client.number}:"
            case _:
                continue
        yield from (f"was given {word!r}, which is not its own" for word in text.split() if not word.startswith(ours))


def _settled(client: Client) -> Iterator[str]:
    counted = Counter(word for event in _finals(client) for word in event.transcript.split())
    yield from (f"{word} is in {count} final transcripts" for word, count in counted.items() if count > 1)
    for event in _finals(client):
        numbers = [int(word.partition(".")[2]) for word in event.transcript.split() if word.partition(".")[2].isdigit()]
        if numbers != sorted(numbers):
            yield f"the words of {event.item_id} are out of order"


def _lost(client: Client) -> Iterator[str]:
    said = {word for event in _finals(client) for word in event.transcript.split()}
    excused = [*_failed(client), *((start, end + BEHIND_GAP) for start, end, _ in client.holes)]
    for mark in client.marks:
        inside = any(start <= mark.position < end for start, end in excused)
        if mark.owed and mark.word not in said and not inside:
            yield f"{mark.word} (at {mark.position / RATE:.1f} s) was lost and nobody said so"


def _failed(client: Client) -> Iterator[tuple[int, int]]:
    """Where in the sound the utterances lie whose transcription was reported as failed."""
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    for record in client.records:
        match record.event:
            case SpeechStarted(item_id=key, audio_start_ms=ms):
                starts[key] = to_samples(ms)
            case SpeechStopped(item_id=key, audio_end_ms=ms):
                ends[key] = to_samples(ms)
            case TranscriptionFailed(item_id=key) if key in starts:
                yield starts[key], ends.get(key, record.captured)


def _gaps(client: Client) -> Iterator[str]:
    total, position = 0, 0
    for start, end, seen in sorted(client.holes):
        total += max(0, end - max(start, position))
        position = max(position, end)
        if end > seen - KEEP + SLACK:
            yield f"sound at {start / RATE:.1f} to {end / RATE:.1f} s was given up at {seen / RATE:.1f} s"
    if to_ms(total) != client.lost_ms:
        yield f"{to_ms(total)} ms of sound were lost and {client.lost_ms} ms were shown"
    links = [record.event for record in client.records if isinstance(record.event, Relinked)]
    told = sum(event.lost_ms for event in links)
    if told > client.lost_ms + len(links):
        yield f"{client.lost_ms} ms of sound were lost and {told} ms were told with the links"
    for record in client.records:
        if isinstance(record.event, Notice) and record.event.code == "audio_gap" and not client.holes:
            yield "the server missed sound that the client has not given up"


# ── order and ends ──────────────────────────────────────────────────────────────────────────────────────────────────


def _ends(client: Client) -> Iterator[str]:
    """A checker for each session, of which only the last one must have come to its end."""
    wire = WireChecker()
    for record in client.records:
        if not isinstance(record.event, get_args(ServerEvent)):
            continue
        if isinstance(record.event, SessionCreated):
            wire = WireChecker()
        try:
            wire.receive(json.loads(dump(record.event)))
        except (AssertionError, KeyError) as error:
            yield f"{record.event.__struct_config__.tag} at {record.captured / RATE:.1f} s: {error}"
            return
    try:
        wire.finish(transcribed=True)
    except AssertionError as error:
        yield str(error)


def _answers(client: Client) -> Iterator[str]:
    texts: dict[str, str] = {}
    for record in client.records:
        match record.event:
            case OutputTextDelta(response_id=key, delta=delta):
                texts[key] = texts.get(key, "") + delta
            case ResponseDone(response=response):
                numbers = [int(word.rpartition(":")[2]) for word in texts.get(response.id, "").split()]
                if numbers != list(range(len(numbers))):
                    yield f"{response.id} has its tokens out of order"
                if response.status == "completed" and len(numbers) != client.tokens:
                    yield f"{response.id} is complete with {len(numbers)} of {client.tokens} tokens"


def _causes(client: Client, faults: Sequence[Fault]) -> Iterator[str]:
    for record in client.records:
        match record.event:
            case TranscriptionFailed(error=error):
                code = error.code
            case ResponseDone(response=response) if response.status == "failed":
                code = str(((response.status_details or {}).get("error") or {}).get("code"))
            case _:
                continue
        if not any(_explains(fault, code, client.number, record.at_us) for fault in faults):
            yield f"a turn failed with {code} at {record.captured / RATE:.1f} s, and there was no fault"


def _explains(fault: Fault, code: str, client: int, at_us: int) -> bool:
    concerned = fault.target in EXPLAINS.get(code, ()) and fault.client in (None, client)
    return concerned and fault.begin_us <= at_us <= fault.end_us + BLAME_US


def _screen(client: Client) -> Iterator[str]:
    state = State()
    places: dict[str, int] = {}
    for record in client.records:
        state = reduce(state, record.event)
        if isinstance(record.event, SpeechStarted):
            places[record.event.item_id] = record.event.audio_start_ms
    yield from (
        f"{entry.key} is still open on the screen" for entry in state.entries if entry.progress is EntryProgress.OPEN
    )
    moved = [entry for entry in state.entries if entry.key in places and entry.start_ms != places[entry.key]]
    if moved:
        first = moved[0]
        where = f"{first.key} at {first.start_ms} ms, and it was spoken at {places[first.key]} ms"
        yield f"{len(moved)} utterances stand at another place than they were spoken at: {where}"


# ── the journal ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _journal(lives: Iterable[Life]) -> Iterator[str]:
    for number, life in enumerate(lives, 1):
        begun = Counter(re.findall(r"session (\w+) started", life.log))
        ended = Counter(re.findall(r"session (\w+) ended", life.log))
        where = f"gateway {number}"
        yield from (f"{where}: session {key} began {n} times" for key, n in begun.items() if n > 1)
        yield from (f"{where}: session {key} ended {n} times" for key, n in ended.items() if n > 1)
        yield from (f"{where}: session {key} ended and never began" for key in ended.keys() - begun.keys())
        if not life.killed:
            yield from (f"{where}: session {key} never ended" for key in begun.keys() - ended.keys())
        if "Traceback" in life.log or "internal error" in life.log:
            yield f"{where}: a traceback in the log"
