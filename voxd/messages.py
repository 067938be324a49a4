"""The messages between the gateway and the engine process: bytes, numbers and strings, frozen.  Steps 5, 6 and 9.

Pure.  It knows no socket, no session and no engine.  A *stream* is one audio input; a *ref* names an utterance or a
response inside its stream, is given by the gateway and only grows.  Positions are sample indices of the stream at
16 kHz; times are microseconds of CLOCK_MONOTONIC, which all processes of one machine share.

The life of a stream:

    Open .......................................... Refused, or nothing; a second one: Opened or Refused
    Feed Feed Feed ................................ Heard: speech probability, in audio order
      Onset(ref) .................................. Said: confirmed text, append-only, while the person speaks
      Prepare(ref) .............................. a request will follow: nothing is published
        Flush(ref, end) | Rollback(ref) ........... the tentative end, and its withdrawal: neither publishes; a
                                                    transcriber may say what it would write down: Guessed(ref, end)
        Speculate(ref') | Crop(ref') .............. the same for an answer
      Commit(ref, end) ............................ Said ..., then Settled(ref) exactly once, or Failed(ref)
      Respond(ref') ............................... Said ..., then Settled(ref') exactly once, or Failed(ref')
        Cancel(ref)
    Leave, Close
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

Role = Literal["transcribe", "respond"]
Status = Literal["completed", "cancelled", "incomplete"]
Guide = Literal["language", "prompt"]
BOTH: tuple[Role, ...] = ("transcribe", "respond")
PLAIN = 200  # bytes that a message takes in memory, about, beside its texts and its audio
TURN = 100  # bytes that an entry of a conversation takes, about, beside its texts


class Message(msgspec.Struct, frozen=True, gc=False, tag=True, array_like=True):
    """Base of all messages."""

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about; only what a client can make large is counted."""
        return PLAIN


class StreamMessage(Message, frozen=True):
    """Base of all messages about one stream.

    `audience`: the roles whose engines receive it; an engine that has both roles receives it once.  It is empty for
    what no engine receives."""

    stream: int
    audience: ClassVar[tuple[Role, ...]] = ()


# ── gateway → engine process ────────────────────────────────────────────────────────────────────────────────────────


class Configure(Message, frozen=True):
    """The first message, sent once: which engines are wanted, and the checked settings (msgspec builtins)."""

    transcribe: str | None
    respond: str | None
    settings: dict[str, object]


class Open(StreamMessage, frozen=True):
    """Asks for a slot.  Answered by Refused or not at all.  A second Open of a stream changes its options, and is
    answered by Opened or by Refused.

    `roles`: from the gateway, those that the session wants; to an engine, those of them that it has itself."""

    audience: ClassVar[tuple[Role, ...]] = BOTH
    roles: tuple[Role, ...]
    language: str | None = None  # ISO 639-1; None = the engine decides
    prompt: str = ""  # words and names to expect
    delay_ms: int | None = None  # text trails audio by this; None = the engine's default
    start: int = 0  # sample index of the first Feed (after an engine loss it is not 0)
    hurry: bool = False  # a file: nobody reads along, so all of its text soon counts, and who speaks now goes first


class Feed(StreamMessage, frozen=True):
    """Audio: s16le at 16 kHz, the first sample being number `start`; consecutive, without gaps.

    `known`: the turn rules have decided up to this sample, so audio between the onset of the open utterance and `known`
    belongs to that utterance.  Audio after it may be the next utterance's, if it comes faster than real time, so live
    text stays before it.  None: no such limit."""

    audience: ClassVar[tuple[Role, ...]] = BOTH
    start: int
    pcm: bytes
    known: int | None = None

    @property
    def size(self) -> int:
        return PLAIN + len(self.pcm)


class Onset(StreamMessage, frozen=True):
    """Utterance `ref` has begun at `start` (padding included, never more than 5 s back).

    `said` is what a client already holds of it (after an engine loss): new text must continue it."""

    audience: ClassVar[tuple[Role, ...]] = BOTH
    ref: int
    start: int
    said: str = ""


class Flush(StreamMessage, frozen=True):
    """The utterance may have ended at `end`: work as if it had, publish nothing final."""

    audience: ClassVar[tuple[Role, ...]] = ("transcribe",)
    ref: int
    end: int


class Rollback(StreamMessage, frozen=True):
    """The utterance goes on after all: undo the Flush without trace."""

    audience: ClassVar[tuple[Role, ...]] = ("transcribe",)
    ref: int


class Commit(StreamMessage, frozen=True):
    """The utterance is [its onset, `end`): transcribers finish it, responders take it into the context."""

    audience: ClassVar[tuple[Role, ...]] = BOTH
    ref: int
    end: int


class Audio(StreamMessage, frozen=True):
    """The whole audio of `ref`, which came with an item and was not spoken into the stream.  s16le at 16 kHz."""

    audience: ClassVar[tuple[Role, ...]] = ("respond",)
    ref: int
    pcm: bytes

    @property
    def size(self) -> int:
        return PLAIN + len(self.pcm)


class Turn(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One entry of a conversation as a responder sees it: text, or the audio of utterance `ref`, or both.

    In an assistant's turn, `ref` is the response and `text` is all of it, or as much as the client was sent.
    `transcript`: the text of the audio, for an engine that has not heard it or has forgotten it.
    `continues`: it belongs to the same item as the turn before it, so both are used or neither."""

    role: Literal["system", "user", "assistant"]
    text: str = ""
    ref: int | None = None
    transcript: str = ""
    continues: bool = False

    @property
    def words(self) -> str:
        """The turn as text, for an engine that reads."""
        return self.text or self.transcript

    @property
    def size(self) -> int:
        return TURN + len(self.text) + len(self.transcript)


def _size(context: tuple[Turn, ...]) -> int:
    return sum(turn.size for turn in context)


class Respond(StreamMessage, frozen=True):
    """Answer the conversation.  If `ref` was speculated upon, what is ready is published at once.

    An engine that reads text gets it once the text of all that was spoken is final; an utterance without text was
    noise.  If that is not the text that it speculated upon, the answer is begun anew."""

    audience: ClassVar[tuple[Role, ...]] = ("respond",)
    ref: int
    context: tuple[Turn, ...]
    max_tokens: int | None = None
    aside: bool = False  # its answer does not become part of the conversation

    @property
    def size(self) -> int:
        return PLAIN + _size(self.context)


class Prepare(StreamMessage, frozen=True):
    """Somebody speaks; if `utterance` is answered, it will follow this conversation.  Publish nothing."""

    audience: ClassVar[tuple[Role, ...]] = ("respond",)
    utterance: int
    context: tuple[Turn, ...]

    @property
    def size(self) -> int:
        return PLAIN + _size(self.context)


class Speculate(StreamMessage, frozen=True):
    """Begin the answer that Respond(ref) will probably ask for, as if the utterance ended at `end`; publish nothing."""

    audience: ClassVar[tuple[Role, ...]] = ("respond",)
    ref: int
    utterance: int
    end: int
    context: tuple[Turn, ...]
    max_tokens: int | None = None

    @property
    def size(self) -> int:
        return PLAIN + _size(self.context)


class Crop(StreamMessage, frozen=True):
    """Forget the speculation `ref` without trace."""

    audience: ClassVar[tuple[Role, ...]] = ("respond",)
    ref: int


class Cancel(StreamMessage, frozen=True):
    """Stop `ref`, an utterance or a response.  A response settles as cancelled, an utterance vanishes silently."""

    audience: ClassVar[tuple[Role, ...]] = BOTH
    ref: int


class Leave(StreamMessage, frozen=True):
    """The client is gone and may come back: engines free its slot as for Close, the VAD keeps its state.

    A later Open of the same stream begins anew with the engines, except that a responder may remember earlier turns;
    audio that the VAD has already heard is fed to them again."""

    audience: ClassVar[tuple[Role, ...]] = BOTH


class Close(StreamMessage, frozen=True):
    """Frees the slot at once; no message about this stream follows."""

    audience: ClassVar[tuple[Role, ...]] = BOTH


class Part(StreamMessage, frozen=True):
    """The first turns of a context, or the first samples of an Audio, that is too long for one message.

    The others follow in a Prepare, Speculate or Respond, or in the Audio.  Without either it withdraws the parts before
    it, whose message cannot be sent."""

    turns: tuple[Turn, ...] = ()
    pcm: bytes = b""


class Stop(Message, frozen=True):
    """The engine process ends."""


StreamCommand = (
    Open
    | Feed
    | Onset
    | Flush
    | Rollback
    | Commit
    | Audio
    | Prepare
    | Respond
    | Speculate
    | Crop
    | Cancel
    | Leave
    | Close
)
Command = Configure | StreamCommand | Part | Stop  # what the gateway sends

# ── engine process → gateway ────────────────────────────────────────────────────────────────────────────────────────


class Heard(StreamMessage, frozen=True):
    """Speech probability of consecutive VAD frames (512 samples), the first beginning at sample `start`."""

    audience: ClassVar[tuple[Role, ...]] = BOTH
    start: int
    probabilities: tuple[float, ...]


EngineCommand = StreamCommand | Heard  # what an engine may receive


class Said(StreamMessage, frozen=True):
    """New text of `ref`, to be appended to what was said before.

    `provisional` is the engine's guess of what follows; it replaces the guess before it and is never part of the text.
    `samples`: audio position up to which the text is known to reach, 0 if the engine does not know.
    The loop fills the times: `commit_us` when Commit or Respond was taken up, 0 before that."""

    ref: int
    text: str
    provisional: str = ""
    samples: int = 0
    tokens: int = 0
    input_tokens: int = 0  # of a response, as soon as it is known; the largest counts
    cached_tokens: int = 0
    at_us: int = 0
    commit_us: int = 0


class Word(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A word and where it lies in the stream, in samples."""

    text: str  # without spaces around it
    start: int
    end: int


class Guessed(StreamMessage, frozen=True):
    """All that `ref` would say if it ended at `end`: what a Flush has brought, for a responder that reads.

    No client is told; the final text may be another."""

    ref: int
    end: int
    text: str


class Settled(StreamMessage, frozen=True):
    """`ref` is finished; `text` is all of its text.  Exactly once per Commit or Respond.

    `words`: those of the text in their order, where the engine knows when each was said.  `language`: what was spoken,
    ISO 639-1, where the engine has found out."""

    ref: int
    status: Status
    text: str
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    compute_us: int = 0  # time that a device or a worker was busy with it, speculation included
    saved_us: int = 0  # how much of the time to its first text had passed before it was asked for
    at_us: int = 0
    commit_us: int = 0
    words: tuple[Word, ...] = ()
    language: str | None = None


class Opened(StreamMessage, frozen=True):
    """A second Open of the stream is in effect, in all engines that it is for."""


class Refused(StreamMessage, frozen=True):
    """No slot for this stream; `reason` is for people, `retry_after_s` an estimate.

    `kept`: the Open was a second one, and the stream goes on with the options that it had."""

    reason: str
    retry_after_s: int = 5
    kept: bool = False


class Failed(StreamMessage, frozen=True):
    """`ref` (None: the stream) cannot be finished; `message` is for people and holds no internals."""

    ref: int | None
    code: str
    message: str


class Warned(StreamMessage, frozen=True):
    """Something went wrong with a stream and was put right: `code` is for programs, `message` for people."""

    code: str
    message: str


class Progress(Message, frozen=True):
    """What is being done while engines load, for status lines and /ready."""

    text: str


class Ready(Message, frozen=True):
    """The engines are loaded and warm.

    `notes`: lines that the user reads: what runs where, and what is slower than it could be.
    `delay_ms`: by how much the transcriber's live text trails audio, unless a session says otherwise; None: it has no
    such setting.  `reads_text`: the responder answers what the transcriber has written, not audio.
    `languages`: those that the transcriber knows; (): it does not say.  `guided_by`: which hints of Open it uses."""

    transcribe: str | None
    respond: str | None
    speculates: bool
    notes: tuple[str, ...] = ()
    delay_ms: int | None = None
    reads_text: bool = False
    languages: tuple[str, ...] = ()
    guided_by: tuple[Guide, ...] = ()


class Beat(Message, frozen=True):
    """Sign of life of the loop, every half second, working or idle.

    `lag_samples`: audio received and not yet heard, of the stream that waits most.  What follows are totals of this
    process: `rows` frames were scored in `batches` calls of the VAD's network within `vad_us`; `step_us` is the time of
    the engines' steps on the loop's thread."""

    at_us: int
    streams: int
    lag_samples: int
    batches: int = 0
    rows: int = 0
    vad_us: int = 0
    step_us: int = 0


class Broken(Message, frozen=True):
    """The engine process cannot start or go on, for a reason that a person can put right; it exits after this."""

    message: str
    configuration: bool = False


Output = Heard | Said | Guessed | Settled | Opened | Refused | Failed | Warned
Report = Output | Progress | Ready | Beat | Broken
