"""What a conversation looks like so far: `reduce(state, event) -> state`.  Step 12 of a packet's path.

Pure: frozen values in and out, no clock, no socket, no screen.  All that a screen, a pipe or a file may show is in
`State`, and every text in it that came from a server has passed `safe_text` here.  It does not know how a screen draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import takewhile

from shared.events import (
    Content,
    Error,
    Item,
    ItemAdded,
    Notice,
    OutputTextDelta,
    OutputTextDone,
    Provisional,
    ResponseCreated,
    ResponseDone,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TranscriptionCompleted,
    TranscriptionDelta,
    TranscriptionFailed,
)
from shared.latency import TurnMetrics
from shared.safe_text import safe_line, safe_text
from shared.session_config import RealtimeSession
from voxtui.events import (
    Connected,
    Connecting,
    Disconnected,
    Dropped,
    Event,
    Floor,
    Health,
    LinkEvent,
    Measured,
    Painted,
    Relinked,
    Remark,
    Unlinked,
    Wiped,
)

ENTRIES = 500  # the oldest go beyond it
RECENT = 20  # the latest entries, among which an open answer is
RENDERS = 500  # paintings that are remembered
TURNS = 120  # metrics of as many turns are kept for the graph; the oldest go
RUNNING = 8  # turns whose metrics are not yet complete; of one that was given up nothing more is told
# Why an answer ended early, in a word.
ENDINGS = {"turn_detected": "interrupted", "client_cancelled": "stopped", "max_output_tokens": "cut at its longest"}


class LinkState(Enum):
    """The state of the connection."""

    CONNECTING = "connecting"
    OPEN = "connected"
    BROKEN = "reconnecting"  # another link is being tried; sound is kept meanwhile
    LOST = "disconnected"


class Speech(Enum):
    """What the person is doing, as the server hears it."""

    QUIET = "listening"
    SPEAKING = "speaking"
    SETTLING = "finishing"  # the turn is over, its text is not yet final


class EntryProgress(Enum):
    """How far one entry is."""

    OPEN = "open"
    DONE = "done"
    BROKEN = "broken"  # failed or cancelled: what is there is all there will be


class Voice(Enum):
    """Whose words an entry holds."""

    USER = "user"
    MODEL = "model"
    NOTE = "note"  # of the program itself: warnings and errors


@dataclass(frozen=True, slots=True)
class Entry:
    """One utterance, answer or note.  `text` is append-only while OPEN; `provisional` is what will probably follow."""

    key: str  # item id; for an answer the response id; for a note a number
    voice: Voice
    text: str = ""
    provisional: str = ""
    progress: EntryProgress = EntryProgress.OPEN
    remark: str = ""  # why it is BROKEN
    heard: bool = False  # spoken rather than typed
    metrics: TurnMetrics | None = None
    start_ms: int | None = None  # start and end of what was spoken, in the sound of the whole conversation
    end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Everything about a conversation that may be shown."""

    link: LinkState = LinkState.CONNECTING
    path: str = ""  # how voxd is reached
    reason: str = ""  # why the link is LOST or BROKEN
    progress: str = ""  # what the daemon does while the first link waits for it
    tries: int = 0  # tries of another link, while it is BROKEN
    health: Health = Health()
    gaps: int = 0  # links that broke and were replaced
    transcriber: str | None = None
    responder: str | None = None
    speech: Speech = Speech.QUIET
    speaking_in: str = ""  # key of the utterance that is being spoken
    entries: tuple[Entry, ...] = ()
    turns: tuple[TurnMetrics, ...] = ()  # metrics of finished turns, oldest first
    running: tuple[tuple[str, TurnMetrics], ...] = ()  # key, what is known so far of a turn that is not finished
    targets: tuple[tuple[str, float], ...] = ()  # metric, ms: what the person and the daemon's operator want
    floor: Floor = Floor()
    renders: tuple[float, ...] = ()  # ms from a delta's receipt to its being painted, of the latest ones
    dropped: int = 0  # packets of sound that were lost before they were sent
    notes: int = 0  # how many notes there have been; their keys
    before_ms: int = 0  # sound of the conversations before this one: each counts from its own beginning

    @property
    def converses(self) -> bool:
        """Whether turns are answered."""
        return self.responder is not None and self.floor.answers

    @property
    def answering(self) -> bool:
        """Whether an answer is being given."""
        return any(e.voice is Voice.MODEL and e.progress is EntryProgress.OPEN for e in self.entries[-RECENT:])

    def place(self, key: str) -> int | None:
        """The index of the entry of this key.  It searches from the end, since nearly always the last one changes."""
        for at in range(len(self.entries) - 1, -1, -1):
            if self.entries[at].key == key:
                return at
        return None


def reduce(state: State, event: Event) -> State:
    """The state after one event.  What means nothing here (audio bookkeeping, item order) leaves it as it was."""
    match event:
        case TranscriptionDelta() | TranscriptionCompleted() | TranscriptionFailed() | Provisional():
            return _transcription(state, event)
        case SpeechStarted() | SpeechStopped() | ItemAdded():
            return _user(state, event)
        case ResponseCreated() | OutputTextDelta() | OutputTextDone() | ResponseDone():
            return _answer(state, event)
        case SessionCreated() | SessionUpdated() | Error() | Notice():
            return _session(state, event)
        case Connecting() | Connected() | Disconnected() | Unlinked() | Relinked() | Health():
            return _link(state, event)
        case Measured() | Remark() | Dropped() | Painted() | Floor() | Wiped():
            return _local(state, event)
        case _:
            return state


def _transcription(
    state: State, event: TranscriptionDelta | TranscriptionCompleted | TranscriptionFailed | Provisional
) -> State:
    state = _with(state, event.item_id, Voice.USER, heard=True)
    match event:
        case TranscriptionDelta(item_id=key, delta=delta):
            return _change(state, key, lambda old: replace(old, text=old.text + safe_text(delta), provisional=""))
        case Provisional(item_id=key, text=text):
            return _change(state, key, lambda old: replace(old, provisional=safe_text(text)))
        case TranscriptionCompleted(item_id=key, transcript=text):
            state = _change(
                state, key, lambda old: replace(old, text=safe_text(text), provisional="", progress=EntryProgress.DONE)
            )
        case TranscriptionFailed(item_id=key, error=error):
            why = safe_line(error.message)
            state = _change(
                state, key, lambda old: replace(old, provisional="", progress=EntryProgress.BROKEN, remark=why)
            )
    return _settled(_without_empty(state, event.item_id))


def _user(state: State, event: SpeechStarted | SpeechStopped | ItemAdded) -> State:
    match event:
        case SpeechStarted(item_id=key):
            start_ms = state.before_ms + event.audio_start_ms
            state = _change(_with(state, key, Voice.USER, heard=True), key, lambda old: replace(old, start_ms=start_ms))
            return replace(state, speech=Speech.SPEAKING, speaking_in=key)
        case SpeechStopped(item_id=key):
            end_ms = state.before_ms + event.audio_end_ms
            state = _change(state, key, lambda old: replace(old, end_ms=end_ms))
            if key != state.speaking_in:
                return state
            return _settled(replace(state, speech=Speech.SETTLING, speaking_in=""))
        case ItemAdded(item=Item(role="user") as item):
            state = _with(state, item.id, Voice.USER, heard=not _typed(item.content))
            if not (text := _typed(item.content)):
                return _settled(_untranscribed(state, item.id))
            return _change(state, item.id, lambda old: replace(old, text=safe_text(text), progress=EntryProgress.DONE))
        case _:
            return state


def _typed(content: tuple[Content, ...]) -> str:
    return "\n".join(part.text for part in content if part.type == "input_text" and isinstance(part.text, str))


def _untranscribed(state: State, key: str) -> State:
    """Closes an utterance in a session without a transcriber, for which no text will ever come."""
    if state.transcriber is not None or state.responder is None:
        return state
    return _change(state, key, lambda old: replace(old, progress=EntryProgress.DONE))


def _answer(state: State, event: ResponseCreated | OutputTextDelta | OutputTextDone | ResponseDone) -> State:
    match event:
        case ResponseCreated(response=response):
            return _with(state, response.id, Voice.MODEL)
        case OutputTextDelta(response_id=key, delta=delta):
            state = _with(state, key, Voice.MODEL)
            return _change(state, key, lambda old: replace(old, text=old.text + safe_text(delta)))
        case OutputTextDone(response_id=key, text=text):
            return _change(state, key, lambda old: replace(old, text=safe_text(text)))
        case ResponseDone(response=response):
            good = response.status == "completed"
            progress, why = (EntryProgress.DONE, "") if good else (EntryProgress.BROKEN, _cause(event))
            return _change(state, response.id, lambda old: replace(old, progress=progress, remark=why))


def _cause(event: ResponseDone) -> str:
    """Why a response is not complete, in a word or the server's sentence."""
    details = event.response.status_details or {}
    error = details.get("error")
    said = error.get("message") if isinstance(error, dict) else None
    reason = details.get("reason")
    return safe_line(str(said or ENDINGS.get(str(reason)) or reason or event.response.status))


def _session(state: State, event: SessionCreated | SessionUpdated | Error | Notice) -> State:
    match event:
        case SessionCreated(session=session) | SessionUpdated(session=session):
            responder = session.voxd.respond if isinstance(session, RealtimeSession) else None
            told = {safe_line(name): ms for name, ms in (session.voxd.targets or {}).items()}
            targets = tuple((dict(state.targets) | told).items())
            return replace(
                state, transcriber=_name(session.voxd.transcribe), responder=_name(responder), targets=targets
            )
        case Error(error=error):
            return _note(state, safe_line(error.message))
        case Notice(message=message):
            return _note(state, safe_line(message))


def _name(engine: str | None) -> str | None:
    return None if engine is None else safe_line(engine)


def _link(state: State, event: LinkEvent) -> State:
    match event:
        case Connecting(path=path, progress=progress):
            return replace(
                state, link=LinkState.CONNECTING, path=safe_line(path), reason="", progress=safe_line(progress)
            )
        case Connected(path=path):
            heard_ms = max((entry.end_ms or entry.start_ms or 0 for entry in state.entries), default=0)
            state = replace(state, before_ms=max(state.before_ms, heard_ms))
            return replace(state, link=LinkState.OPEN, path=safe_line(path), reason="", progress="", tries=0)
        case Disconnected(reason=reason):
            state = replace(state, link=LinkState.LOST, reason=safe_line(reason), speech=Speech.QUIET, speaking_in="")
            return _closed(replace(state, running=()))
        case Unlinked(reason=reason, tries=tries):
            return replace(state, link=LinkState.BROKEN, reason=safe_line(reason), tries=tries)
        case Relinked(fresh=fresh):
            state = replace(state, link=LinkState.OPEN, reason="", tries=0, gaps=state.gaps + 1)
            state = _note(state, back_again(event))
            return _restarted(state) if fresh else state
        case Health():
            return replace(state, health=event)


def back_again(event: Relinked) -> str:
    """What a replaced link has cost, in one line."""
    tries = "one try" if event.tries == 1 else f"{event.tries} tries"
    lost = f"{event.lost_ms / 1000:.1f} s of sound was lost" if event.lost_ms else "no sound was lost"
    anew = "; voxd had forgotten the session, so a new one has begun" if event.fresh else ""
    return f"Connected again after {event.down_ms / 1000:.1f} s and {tries}: {lost}{anew}."


def _restarted(state: State) -> State:
    """Drops open utterances, which will be heard anew under another key, and ends open answers, which will not come
    back."""
    kept = tuple(e for e in state.entries if e.voice is not Voice.USER or e.progress is not EntryProgress.OPEN)
    return _closed(replace(state, entries=kept, running=(), speech=Speech.QUIET, speaking_in=""))


def _local(state: State, event: Measured | Remark | Dropped | Painted | Floor | Wiped) -> State:
    match event:
        case Measured(key=key, metrics=metrics, complete=complete):
            return _measured(state, key, metrics, complete=complete)
        case Remark(text=text):
            return _remarked(state, safe_line(text))
        case Dropped(packets=packets):
            return replace(state, dropped=packets)
        case Painted(render_ms=ms):
            return replace(state, renders=(*state.renders, ms)[-RENDERS:])
        case Floor():
            return replace(state, floor=replace(event, microphone=safe_line(event.microphone)))
        case Wiped():
            return replace(state, entries=tuple(e for e in state.entries if e.progress is EntryProgress.OPEN))


def _measured(state: State, key: str, metrics: TurnMetrics, *, complete: bool) -> State:
    state = _change(state, key, lambda old: replace(old, metrics=metrics))
    running = tuple(pair for pair in state.running if pair[0] != key)
    if not complete:
        return replace(state, running=(*running, (key, metrics))[-RUNNING:])
    return replace(state, running=running, turns=(*state.turns, metrics)[-TURNS:])


def _closed(state: State) -> State:
    """Closes open entries for which nothing more comes; an entry without a word is dropped."""
    kept = tuple(
        replace(entry, provisional="", progress=EntryProgress.BROKEN, remark="connection lost")
        if entry.progress is EntryProgress.OPEN
        else entry
        for entry in state.entries
        if entry.text or entry.progress is not EntryProgress.OPEN
    )
    return replace(state, entries=kept)


# ── entries ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with(state: State, key: str, voice: Voice, *, heard: bool = False) -> State:
    """The state with an entry of this key."""
    if state.place(key) is not None:
        return state
    return replace(state, entries=(*state.entries, Entry(key, voice, heard=heard))[-ENTRIES:])


def _change(state: State, key: str, how: Callable[[Entry], Entry]) -> State:
    at = state.place(key)
    if at is None:
        return state
    return replace(state, entries=(*state.entries[:at], how(state.entries[at]), *state.entries[at + 1 :]))


def _without_empty(state: State, key: str) -> State:
    """Drops an utterance that turned out to hold no words, such as a cough."""
    kept = tuple(e for e in state.entries if e.key != key or e.text.strip() or e.progress is not EntryProgress.DONE)
    return replace(state, entries=kept)


def _settled(state: State) -> State:
    """Ends SETTLING when no utterance waits for its text."""
    waits = any(e.voice is Voice.USER and e.progress is EntryProgress.OPEN for e in state.entries)
    return replace(state, speech=Speech.QUIET) if state.speech is Speech.SETTLING and not waits else state


def _note(state: State, text: str) -> State:
    note = Entry(f"note-{state.notes}", Voice.NOTE, text, progress=EntryProgress.DONE)
    return replace(state, entries=(*state.entries, note)[-ENTRIES:], notes=state.notes + 1)


def _remarked(state: State, text: str) -> State:
    """Adds a note of the program, unless it was already said since the last words, as of a daemon that stays away."""
    since = takewhile(lambda entry: entry.voice is Voice.NOTE, reversed(state.entries))
    return state if any(note.text == text for note in since) else _note(state, text)


def changes(before: State, after: State) -> Iterator[tuple[Entry | None, Entry]]:
    """The entries of `after` that differ from `before`, each with what it was (None: new), in order.

    Entries that are as they were are the same objects, so that this costs next to nothing."""
    if before.entries is after.entries:
        return
    old = {entry.key: entry for entry in before.entries}
    for entry in after.entries:
        if old.get(entry.key) is not entry:
            yield old.get(entry.key), entry


def plain_text(state: State) -> str:
    """The conversation as people would write it down."""
    said = (entry for entry in state.entries if entry.voice is not Voice.NOTE and entry.text.strip())
    return ("" if state.responder is None else "\n").join(written(entry, state) for entry in said)


def written(entry: Entry, state: State) -> str:
    """One entry of it, with a name where there are two."""
    text = entry.text.strip()
    return f"{text}\n" if state.responder is None else f"{speaker(entry, state)}: {text}\n"


def speaker(entry: Entry, state: State) -> str:
    return "You" if entry.voice is Voice.USER else state.responder or "Answer"
