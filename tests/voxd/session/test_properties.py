"""Properties of a session that hold for any order of events of a client, a VAD and an engine."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from shared import events
from shared.audio import RATE
from shared.session_config import AnySession, Extensions, RealtimeSession, TranscriptionSession
from tests.support.checker import EngineChecker, WireChecker
from tests.support.talk import STREAM, counting_ids
from voxd import messages as m
from voxd.session.core import Session
from voxd.session.responses import ChunkPolicy
from voxd.session.terms import Profile
from voxd.session.turns import FRAME

QUIET, VOICE = 0.01, 0.97
WINDOW = 2 * RATE
NOISE = bytes((7 * i * i + 13 * i) % 251 for i in range(1 << 16))
Link = Literal["up", "lost", "parked"]
Op = tuple[Any, ...]
UPDATES: list[events.Json] = [
    {"audio": {"input": {"turn_detection": None}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 160}}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "create_response": False}}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}}},
    {"voxd": {"provisional": True}},
    {"nonsense": 1},
]
SWITCHES: list[events.Json] = [
    {"audio": {"input": {"transcription": None}}},
    {"audio": {"input": {"transcription": {"language": "en"}}}},
]


class Player:
    """Plays client, VAD and engine around one session, as the drawn script says."""

    def __init__(self, kind: str, profile: Profile, rate: int = RATE, stream: int = STREAM) -> None:
        voxd = Extensions(resume=True)
        config: AnySession = (
            TranscriptionSession(id="sess", voxd=voxd)
            if kind == "transcription"
            else RealtimeSession(id="sess", model="", voxd=voxd)
        )
        self.session = Session(stream, config, profile, counting_ids())
        self.stream, self.profile, self.rate = stream, profile, rate
        self.wire = WireChecker()
        self.audio = bytearray()
        self.engine = EngineChecker(stream, self.audio if rate == RATE else None)
        self.link: Link = "up"
        self.frames: list[events.Json] = []
        self.scored = 0  # where the VAD is
        self.walked = 0  # how far the session has been told
        self.dead: list[int] = []  # refs of which only late words can come
        self._given_up: list[int] = []  # the same from the next `ready` on: until then its words still count
        self._odd, self._sent, self._now_us = b"", 0, 0
        self._event_ids = (f"mine_{number}" for number in itertools.count())
        self._drain()
        self.send(
            events.SessionUpdate(
                session={"audio": {"input": {"format": {"type": "audio/pcm", "rate": rate}, "transcription": {}}}}
            )
        )

    # ── what leaves ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _drain(self, cause: str | None = None) -> list[events.ServerEvent]:
        commands, _ = self.session.to_send()
        if self.session.undecided:
            self.session.receive_output(m.Opened(self.stream))
        sent = list(iter(self.session.next_event, None))
        assert self.link == "up" or not commands, "nobody is there to be told"
        for event in sent:
            frame = msgspec.json.decode(events.dump(event))
            self.frames.append(frame)
            self.wire.receive(frame)
            if isinstance(event, events.Error):
                assert event.error.event_id == cause, "an error names its cause"
        for command in commands:
            self._run(command)
        return sent

    def _run(self, command: m.Command) -> None:
        first = isinstance(command, m.Open) and not self.engine.opened
        owed = set(self.engine.responses) | set(self.engine.utterances)
        self.engine.receive(command)
        if first and self.scored == -1:
            self.scored = self.engine.fed
            assert self.scored <= self.walked, "nothing is left unheard"
        if isinstance(command, m.Feed):
            assert self.engine.fed <= max(self.walked, self.engine.start) + WINDOW, "it is fed too far ahead"
        if isinstance(command, m.Cancel):
            self.dead += owed & {command.ref}

    # ── the client ──────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, event: events.ClientEvent) -> list[events.ServerEvent]:
        if self.link == "parked":
            return []
        name = next(self._event_ids)
        self.session.receive_event(msgspec.structs.replace(event, event_id=name))
        return self._drain(name)

    def append(self, size: int) -> None:
        if self.link == "parked":
            return
        at = self._sent % len(NOISE)
        data = (NOISE[at:] + NOISE * (size // len(NOISE) + 1))[:size]
        before = self.session.received
        mine, self._sent = self._odd + data, self._sent + size
        if self.rate == RATE:  # before it is sent: it may be fed at once
            self.audio += mine[: len(mine) & ~1]
        refused = any(isinstance(e, events.Error) for e in self.send(events.AudioAppend(audio=data)))
        if self.session.received > before or (len(mine) < 2 and not refused):
            self._odd = mine[len(mine) & ~1 :]
        elif self.rate == RATE:
            del self.audio[2 * before :]

    def commit(self) -> None:
        if any(isinstance(event, events.Committed) for event in self.send(events.AudioCommit())):
            self._odd = b""

    def clear(self) -> None:
        if self.send(events.AudioClear()):
            self._odd = b""

    def item(self, which: int, after: int) -> None:
        """An item id: one of the client's own, or one that the server has announced."""
        known = ["a", "b", *sorted(self.wire.items), *sorted(self.wire.speeches)]
        places = [None, "root", *known]
        draft = events.ItemDraft("user", (events.Content("input_text", text="x"),), id=known[which % len(known)])
        self.send(events.ItemCreate(item=draft, previous_item_id=places[after % len(places)]))

    def visit(self, which: int, *, delete: bool) -> None:
        known = ["a", "b", *sorted(self.wire.items)]
        item_id = known[which % len(known)]
        self.send(events.ItemDelete(item_id=item_id) if delete else events.ItemRetrieve(item_id=item_id))

    def respond(self, variant: int) -> None:
        known = ["a", *sorted(self.wire.items)]
        draft = events.ItemDraft("user", (events.Content("input_text", text="y"),))
        request = [
            events.ResponseRequest(),
            events.ResponseRequest(metadata={"k": "v"}, max_output_tokens=5),
            events.ResponseRequest(conversation="none", input=(draft,)),
            events.ResponseRequest(conversation="none"),
            events.ResponseRequest(input=(events.ItemReference(known[variant % len(known)]),)),
        ][variant % 5]
        self.send(events.ResponseCreate(response=request))

    def cancel(self, which: int) -> None:
        known = sorted(self.wire.replies)
        wanted = known[which % len(known)] if known and which % 3 else None
        self.send(events.ResponseCancel() if wanted is None else events.ResponseCancel(response_id=wanted))

    # ── the VAD and the engine ──────────────────────────────────────────────────────────────────────────────────────

    def _output(self, *outputs: m.Output) -> None:
        for output in outputs:
            self.session.receive_output(output)
            self._drain()

    def hear(self, frames: int, score: float) -> None:
        """The VAD scores so many frames, or as many as have been fed."""
        if self.link != "up":
            return
        count = min(frames, (self.engine.fed - self.scored) // FRAME)
        if count > 0:
            start, self.scored = self.scored, self.scored + count * FRAME
            self.walked = max(self.walked, self.scored)
            self._output(m.Heard(self.stream, start, (score,) * count))

    def speak(self, frames: int, score: float) -> None:
        """Sends audio that the VAD scores at once."""
        self.append(frames * 2 * FRAME * self.rate // RATE)
        self.hear(frames, score)

    def _owed(self) -> list[int]:
        return sorted(self.engine.responses) + sorted(self.engine.utterances)

    def said(self, which: int, text: str) -> None:
        if owed := self._owed():
            ref = owed[which % len(owed)]
            held = self.engine.responses if ref in self.engine.responses else self.engine.utterances
            held[ref] += text
            self._output(m.Said(self.stream, ref, text, "guess", tokens=1, at_us=self._now_us))

    def settle(self, which: int, rest: str = "") -> None:
        """The engine settles a ref; utterances may end with text that no delta had."""
        if due := sorted(self.engine.responses) + sorted(self.engine.committed):
            ref = due[which % len(due)]
            status: m.Status = "incomplete" if which % 5 == 4 else "completed"
            self._end(m.Settled(self.stream, ref, status, self._text(ref, rest), 7, 3, 2))

    def _text(self, ref: int, rest: str) -> str:
        if ref in self.engine.responses:
            return self.engine.responses[ref]
        return self.engine.utterances[ref] + rest

    def fail(self, which: int) -> None:
        if owed := self._owed():
            self._end(m.Failed(self.stream, owed[which % len(owed)], "engine_error", "It broke."))

    def _end(self, end: m.Settled | m.Failed) -> None:
        assert end.ref is not None
        self.dead.append(end.ref)
        self.engine.responses.pop(end.ref, None)
        self.engine.committed.discard(end.ref)
        self.engine.utterances.pop(end.ref, None)
        self._output(end)

    def late(self, which: int) -> None:
        """An output that was on its way when its ref ended, was cancelled or given up."""
        if self._given_up:
            self._output(m.Said(self.stream, self._given_up[which % len(self._given_up)], " before"))
        if self.dead:
            ref = self.dead[which % len(self.dead)]
            before = len(self.frames)
            self._output(
                m.Said(self.stream, ref, "late"),
                m.Settled(self.stream, ref, "cancelled", "late"),
                m.Failed(self.stream, ref, "late", "late"),
            )
            assert len(self.frames) == before, "what is late changes nothing"

    # ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _give_up(self, link: Link) -> None:
        self._given_up += self._owed()
        self.engine.forget()
        self.link = link

    def lose(self) -> None:
        """The engine process is lost, and its VAD begins anew."""
        self._give_up("parked" if self.link == "parked" else "lost")
        self.scored = -1
        self.session.engine_lost()
        self._drain()

    def park(self) -> None:
        """The client is lost; the VAD of the engine process stays where it is."""
        self._give_up("parked")
        self.session.client_lost()
        self._drain()

    def ready(self) -> None:
        if self.link != "up":
            back, self.link = self.link == "parked", "up"
            self.dead += self._given_up
            self._given_up.clear()
            if back:
                self.session.resumed()
            (self.session.client_back if back else self.session.engine_ready)(self.profile)
            self.session.receive_output(m.Opened(self.stream))
            self._drain()

    def tick(self, us: int) -> None:
        self._now_us += us
        self.session.receive_time(self._now_us)
        self._drain()

    # ── the script ──────────────────────────────────────────────────────────────────────────────────────────────────

    def play(self, script: list[Op]) -> None:
        for name, *values in script:
            match name:
                case "update":
                    self.send(events.SessionUpdate(session=values[0]))
                case "delete" | "retrieve":
                    self.visit(values[0], delete=name == "delete")
                case _:
                    getattr(self, name)(*values)

    def finish(self, *, transcribed: bool) -> None:
        """Client, VAD and engine do everything that is still owed."""
        self.ready()
        while self.engine.fed - self.scored >= FRAME:
            self.hear(1000, QUIET)
        while self.engine.responses or self.engine.committed:
            self.settle(0, " end")
        assert self.session.received - self.engine.fed == 0, "all audio was fed"
        assert self.rate != RATE or self.session.received == len(self.audio) // 2
        self.wire.finish(transcribed=transcribed)


# ── scripts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

scores = st.sampled_from([QUIET, QUIET, 0.4, VOICE, VOICE])
numbers = st.integers(0, 20)
texts = st.sampled_from(["a", " b", " zwölf", " five little words in one", " "])


def op(name: str, *values: st.SearchStrategy[Any]) -> st.SearchStrategy[Op]:
    return st.tuples(st.just(name), *values)


COMMON = [
    op("tick", st.integers(0, 80_000)),  # the simplest comes first: hypothesis shrinks to it
    op("speak", st.integers(1, 40), scores),
    op("speak", st.integers(1, 40), scores),
    op("append", st.sampled_from([0, 1, 2, 3, 639, 640, 3200, 50_000, 150_001])),
    op("hear", st.integers(1, 80), scores),
    op("hear", st.integers(1, 80), scores),
    op("commit"),
    op("commit"),
    op("clear"),
    op("item", numbers, numbers),
    op("delete", numbers),
    op("retrieve", numbers),
    op("said", numbers, texts),
    op("said", numbers, texts),
    op("settle", numbers, texts),
    op("fail", numbers),
    op("late", numbers),
    op("lose"),
    op("park"),
    op("ready"),
    op("ready"),
    op("update", st.sampled_from(UPDATES)),
]
ANSWERS = [op("respond", numbers), op("respond", numbers), op("cancel", numbers)]
SWITCH = [op("update", st.sampled_from(SWITCHES))]
PROFILES = st.sampled_from(
    [
        Profile("echo", "echo"),
        Profile("echo", "echo", speculates=True),
        Profile("echo", "echo", speculates=True, chunks=ChunkPolicy(3, 2, 50_000)),
    ]
)


def scripts(*ops: st.SearchStrategy[Op]) -> st.SearchStrategy[list[Op]]:
    return st.lists(st.one_of(*ops), min_size=15, max_size=80)


VAD: events.Json = UPDATES[1]
MANUAL: events.Json = UPDATES[0]
FOUND: list[list[Op]] = [  # each broke a promise once
    [("lose",), ("respond", 0)],
    [("lose",), ("respond", 0), ("ready",), ("cancel", 0)],
    [("append", 50_000), ("hear", 42, VOICE), ("commit",), ("speak", 6, QUIET), ("speak", 2, VOICE)],
    [("speak", 2, VOICE), ("speak", 16, QUIET), ("item", 2, 0)],
    [
        ("speak", 2, VOICE),
        ("append", 50_000),
        ("commit",),
        ("speak", 16, QUIET),
        ("lose",),
        ("ready",),
        ("said", 0, "a"),
    ],
    [("update", MANUAL), ("speak", 2, VOICE), ("update", VAD), ("speak", 16, QUIET)],
    [("append", 50_000), ("speak", 2, VOICE), ("commit",), ("speak", 16, QUIET), ("speak", 2, VOICE), ("commit",)],
    [("append", 50_000), ("commit",), ("speak", 2, VOICE), ("speak", 16, QUIET), ("speak", 2, VOICE), ("clear",)],
]


@pytest.mark.parametrize("script", FOUND)
def test_what_once_broke_a_promise(script: list[Op]) -> None:
    player = Player("realtime", Profile("echo", "echo", speculates=True))
    player.play(script)
    player.finish(transcribed=True)


# Thousands of them: tests/voxd/session/test_thousands.py.
@settings(deadline=None, max_examples=250)
@given(scripts(*COMMON, *ANSWERS), PROFILES)
def test_a_conversation_keeps_its_promises(script: list[Op], profile: Profile) -> None:
    player = Player("realtime", profile)
    player.play(script)
    player.finish(transcribed=True)


@settings(deadline=None, max_examples=250)
@given(scripts(*COMMON))
def test_a_transcription_keeps_its_promises(script: list[Op]) -> None:
    player = Player("transcription", Profile("echo", None))
    player.play(script)
    player.finish(transcribed=True)


@settings(deadline=None, max_examples=100)
@given(scripts(*COMMON, *ANSWERS, *SWITCH), PROFILES)
def test_switching_transcription_in_mid_sentence_doubles_nothing(script: list[Op], profile: Profile) -> None:
    """An item gets at most one final text; when the switch comes decides which items get one."""
    player = Player("realtime", profile)
    player.play(script)
    player.finish(transcribed=False)


@settings(deadline=None, max_examples=60)
@given(scripts(*COMMON), st.sampled_from([8000, 24_000, 48_000]))
def test_other_rates_are_fed_without_gaps(script: list[Op], rate: int) -> None:
    player = Player("transcription", Profile("echo", None), rate)
    player.play(script)
    player.finish(transcribed=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.one_of(*COMMON, *ANSWERS)), min_size=15, max_size=80))
def test_two_sessions_do_not_know_each_other(script: list[tuple[bool, Op]]) -> None:
    """Each session sends what it would send alone, and its commands name its own stream."""

    def players() -> tuple[Player, Player]:
        profile = Profile("echo", "echo", speculates=True)
        return Player("realtime", profile, stream=1), Player("realtime", profile, stream=2)

    together, alone = players(), players()
    for second, step in script:
        together[second].play([step])
    for which in (False, True):
        alone[which].play([step for second, step in script if second is which])
        assert together[which].frames == alone[which].frames
        together[which].finish(transcribed=True)


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(1, 6_000_000), min_size=3, max_size=6), st.booleans())
def test_what_a_session_keeps_is_bounded(sizes: list[int], manual: bool) -> None:
    """A session keeps five minutes of audio; more is refused without harm."""
    player = Player("transcription", Profile("echo", None))
    player.send(events.SessionUpdate(session=UPDATES[0] if manual else UPDATES[1]))
    for size in sizes:
        player.append(size)
        assert player.session.received - player.walked <= 301 * RATE
    errors = [frame for frame in player.frames if frame["type"] == "error"]
    assert {frame["error"]["code"] for frame in errors} <= {"input_audio_buffer_full"}
    player.finish(transcribed=True)


def test_a_conversation_keeps_its_last_thousand_items() -> None:
    player = Player("realtime", Profile("echo", "echo"))
    for number in range(1100):
        draft = events.ItemDraft("user", (events.Content("input_text", text="x"),), id=f"n{number}")
        player.send(events.ItemCreate(item=draft))
    player.respond(0)
    player.send(events.ItemRetrieve(item_id="n1099"))
    assert player.frames[-1]["type"] == "conversation.item.retrieved"
    player.send(events.ItemRetrieve(item_id="n99"))
    assert player.frames[-1]["error"]["code"] == "item_retrieve_invalid_item_id"
    player.finish(transcribed=True)
