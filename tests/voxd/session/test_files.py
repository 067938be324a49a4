"""A file in a session: no engine is fed more than it can keep, and what it has found is told."""

from __future__ import annotations

from shared import events
from shared.audio import RATE, VAD_FRAME
from shared.session_config import Extensions, TranscriptionSession
from tests.support.talk import counting_ids
from voxd import messages as m
from voxd.session.core import Session
from voxd.session.listening import AHEAD_S, WINDOW
from voxd.session.terms import FILE_THRESHOLD, Profile

AHEAD = AHEAD_S * RATE
FORMAT = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": RATE}}}}


class Talk:
    """A session whose VAD hears 5 s of voice, then 1 s of silence, and so on, and whose engine says nothing."""

    def __init__(self, *, hurry: bool = True) -> None:
        config = TranscriptionSession(id="sess_1", voxd=Extensions(hurry=hurry))
        self.session = Session(1, config, Profile("echo", None), counting_ids())
        self.session.receive_event(events.SessionUpdate(session=FORMAT))
        self.fed, self.commits, self.told = 0, list[m.Commit](), list[events.ServerEvent]()
        self.opened: m.Open | None = None
        self.drain()

    def drain(self) -> None:
        """Everything is heard as soon as it is fed."""
        commands, _ = self.session.to_send()
        while commands:
            for command in commands:
                if isinstance(command, m.Open):
                    self.opened = command
                elif isinstance(command, m.Commit):
                    self.commits.append(command)
                elif isinstance(command, m.Feed):
                    start = command.start // VAD_FRAME if command.start < self.fed else self.fed // VAD_FRAME
                    self.fed = command.start + len(command.pcm) // 2
                    loud = tuple(
                        0.9 if n * VAD_FRAME % (6 * RATE) < 5 * RATE else 0.0
                        for n in range(start, self.fed // VAD_FRAME)
                    )
                    self.session.receive_output(m.Heard(1, start * VAD_FRAME, loud))
            commands, _ = self.session.to_send()
        self.told += iter(self.session.next_event, None)

    def settle(self, commit: m.Commit) -> None:
        word = m.Word("hi", commit.end - RATE, commit.end)
        self.session.receive_output(m.Settled(1, commit.ref, "completed", "hi", words=(word,), language="en"))
        self.drain()


def test_no_engine_is_fed_more_than_it_can_keep() -> None:
    """As fast as a client may send; what is fed moves on with each text."""
    talk = Talk()
    for _ in range(300):
        talk.session.receive_audio(bytes(2 * RATE))
        talk.drain()
    first = talk.commits[0]
    assert 0 <= talk.fed - AHEAD <= WINDOW
    assert talk.session.stalled is (2 * (300 * RATE - talk.fed) >= 4 << 20)
    talk.settle(first)
    assert 5 * RATE < talk.fed - AHEAD <= 6 * RATE + WINDOW
    for commit in talk.commits:
        talk.settle(commit)
    assert talk.fed == 300 * RATE
    assert not [event for event in talk.told if isinstance(event, events.Error)]


def test_what_the_engine_has_found_is_told_of_files_alone() -> None:
    for hurry in (True, False):
        talk = Talk(hurry=hurry)
        assert talk.opened is not None
        assert talk.opened.hurry is hurry
        talk.session.receive_audio(bytes(2 * 8 * RATE))
        talk.drain()
        talk.settle(talk.commits[0])
        (done,) = [event for event in talk.told if isinstance(event, events.TranscriptionCompleted)]
        assert bool(done.voxd_words) is hurry
        assert (done.voxd_language == "en") is hurry


def test_a_file_has_soft_voices_unless_a_threshold_is_asked_for() -> None:
    talk = Talk()
    terms = talk.session._terms
    assert terms.rules.threshold == FILE_THRESHOLD
    detection = {"type": "server_vad", "threshold": 0.7}
    talk.session.receive_event(events.SessionUpdate(session={"audio": {"input": {"turn_detection": detection}}}))
    assert terms.rules.threshold == 0.7
    assert Talk(hurry=False).session._terms.rules.threshold == 0.5


def test_a_file_outlives_an_engine() -> None:
    """Once: minutes of it may be on their way, and nobody would miss the time.  What is lost again is told."""
    talk = Talk()
    talk.session.receive_audio(bytes(2 * 40 * RATE))
    talk.drain()
    before, talk.commits = talk.commits, []
    talk.settle(before[0])
    talk.session.engine_lost()
    talk.session.engine_ready(Profile("echo", None))
    talk.drain()
    assert [commit.end for commit in talk.commits] == [commit.end for commit in before[1:]]
    talk.settle(talk.commits[0])
    talk.session.engine_lost()
    talk.drain()
    failed = [event for event in talk.told if isinstance(event, events.TranscriptionFailed)]
    done = [event for event in talk.told if isinstance(event, events.TranscriptionCompleted)]
    assert (len(done), len(failed)) == (2, len(before) - 2)
