"""Whole runs against a scripted server: voxtui.session.run, plain, transcribe, demo's lines, the table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared.audio import RATE, Float32, to_samples
from shared.captions import FileTurn
from shared.events import (
    Ack,
    AudioAppend,
    AudioCommit,
    ClientEvent,
    Error,
    ErrorBody,
    FailureBody,
    ItemCreate,
    OutputTextDelta,
    Provisional,
    Response,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    TranscriptionFailed,
)
from shared.latency import TurnMetrics
from tests.support.fakes import FakeClock, FakeVoxd, Step, utterance
from voxtui.capture.sources import CLIP, FileSource, read_clip
from voxtui.commands.demo import Lines
from voxtui.commands.plain import run_plain, standard_printer
from voxtui.commands.transcribe import Transcript, as_json, as_srt, as_text, transcribe_files
from voxtui.errors import ClientError
from voxtui.events import Connected, Event
from voxtui.link.client import RealtimeClient
from voxtui.link.target import Direct
from voxtui.session import run as runner
from voxtui.session.run import Run
from voxtui.table import metrics_table


def clip(*voiced_ms: tuple[int, int], seconds: float = 1.0) -> Float32:
    samples = np.zeros(round(seconds * RATE), np.float32)
    for start, stop in voiced_ms:
        samples[to_samples(start) : to_samples(stop)] = 0.5
    return samples


TWO: list[Step] = [
    (400, utterance("a", 0, 300, "He was not", " an ill-disposed young man,")),
    (1200, utterance("b", 500, 1100, "Had he", " married")),
]
SPOKEN = ((50, 250), (560, 820))


async def run(voxd: FakeVoxd, samples: Float32, **options: bool) -> tuple[list[Event], Run]:
    told: list[Event] = []
    async with voxd.serve() as target, RealtimeClient.connect(Direct(target), live=False, patience_s=0) as client:
        source = FileSource("x", samples, clock=FakeClock(), hurry=options.get("hurry", False))
        found = Run(client, source, told.append, **options)
        await found.run()
    return told, found


# ── runner ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_clip_is_played_until_its_last_turn_is_over() -> None:
    """Silence follows the clip, and nothing is ever committed."""
    voxd = FakeVoxd(TWO)
    told, found = await run(voxd, clip(*SPOKEN))
    assert isinstance(told[0], Connected)
    assert len(found.meter.finished()) == 2
    assert voxd.samples > RATE
    assert voxd.sent(AudioCommit) == []


async def test_sound_that_is_no_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clip is over when nothing has happened for a while."""
    monkeypatch.setattr(runner, "QUIET_S", 0.05)
    voxd = FakeVoxd()
    await run(voxd, clip((100, 900)))
    assert voxd.samples > RATE
    assert voxd.sent(AudioCommit) == []


async def test_acknowledgements_are_nothing_that_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come with every piece of the silence behind a clip, for ever."""
    monkeypatch.setattr(runner, "QUIET_S", 0.3)

    def replies(event: ClientEvent) -> Sequence[ServerEvent]:
        return (Ack("", 0, 0),) if isinstance(event, AudioAppend) else ()

    async with FakeVoxd(replies=replies).serve() as target, RealtimeClient.connect(Direct(target)) as client:
        async with asyncio.timeout(60):
            await Run(client, FileSource("x", clip((100, 900))), lambda _: None).run()


async def test_a_hurried_clip_asks_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet may mean that the server is far behind: a commit is answered when all before it has been heard."""
    monkeypatch.setattr(runner, "QUIET_S", 0.05)
    voxd = FakeVoxd()
    await run(voxd, clip((100, 900)), hurry=True)
    assert len(voxd.sent(AudioCommit)) == 1
    assert voxd.samples == RATE + to_samples(runner.TAIL_MS)


async def test_nothing_left_to_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "QUIET_S", 0.05)
    refusal = Error("", ErrorBody("invalid_request_error", runner.NOTHING_LEFT, "too small", None, None))

    def replies(event: ClientEvent) -> Sequence[ServerEvent]:
        return (refusal,) if isinstance(event, AudioCommit) else ()

    told, _ = await run(FakeVoxd(replies=replies), clip((100, 900)), hurry=True)
    assert refusal not in told


async def test_a_turn_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STUCK_S", 0.05)
    with pytest.raises(ClientError, match="has not finished"):
        await run(FakeVoxd([(400, utterance("a", 0, 300, "x")[:2])]), clip(*SPOKEN))


async def test_a_connection_that_breaks() -> None:
    with pytest.raises(ClientError, match="shutting down"):
        await run(FakeVoxd([(400, [])], close=1012), clip(*SPOKEN))


async def test_muted_means_silence() -> None:
    voxd = FakeVoxd([(1200, utterance("b", 0, 1100, "x"))])
    levels: list[float] = []
    async with voxd.serve() as target, RealtimeClient.connect(Direct(target), live=False) as client:
        found = Run(client, FileSource("x", clip(*SPOKEN), clock=FakeClock()), lambda _: None, level=levels.append)
        found.mute(True)
        await found.run()
    assert {event.audio for event in voxd.sent(AudioAppend)} == {bytes(640)}
    assert max(levels) == -120


async def test_typing() -> None:
    answered = ResponseDone("", Response("r", "completed", (), None, "inf"))
    voxd = FakeVoxd([(1200, [*utterance("b", 0, 1100, "x"), answered])], respond="echo")
    async with voxd.serve() as target, RealtimeClient.connect(Direct(target), live=False) as client:
        found = Run(client, FileSource("x", clip(), clock=FakeClock()), lambda _: None)
        await found.say("Hello?")
        await found.run()
    assert voxd.sent(ItemCreate)[0].item.content[0].text == "Hello?"
    assert len(voxd.sent(ResponseCreate)) == 1


# ── plain ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_plain_text_on_one_pipe_and_the_rest_on_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    async with FakeVoxd(TWO).serve() as target, RealtimeClient.connect(Direct(target), live=False) as client:
        await run_plain(client, FileSource("x", clip(*SPOKEN), clock=FakeClock()), standard_printer())
    out, err = capsys.readouterr()
    assert out == "He was not an ill-disposed young man,\nHad he married\n"
    assert err.startswith("connected: unix:")
    assert "metric" in err
    assert "rtf" in err


# ── demo ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def lines(width: int, *events: Event) -> tuple[str, Lines]:
    out: list[str] = []
    found = Lines(out.append, width)
    for event in events:
        found.receive(event)
    return "".join(out), found


def test_demo_lines_in_a_pipe() -> None:
    a = utterance("a", 0, 9, "one ", "two")
    out, found = lines(0, *a[:2], Provisional("", "a", "tw"), *a[2:], *utterance("b", 0, 9))
    assert (out, found.words) == ("one two\n", 2)


def test_demo_lines_on_a_terminal() -> None:
    """Provisional words stand dim behind the confirmed ones and are taken back, never beyond the row."""
    a = utterance("a", 0, 9, "one", " two")
    out, _ = lines(10, *a[:2], Provisional("", "a", " twofold"), *a[2:])
    assert out == "one\x1b[2m twofo\x1b[0m\x1b[6D\x1b[K two\n"


def test_demo_lines_of_answers() -> None:
    """One line at a time: an answer waits for the words that it answers, and what is said next for its end."""
    a, b = utterance("a", 0, 9, "one ", "two"), utterance("b", 20, 29, "three")
    out, found = lines(
        0,
        *a[:2],
        ResponseCreated("", Response("r", "in_progress", (), None, "inf")),
        OutputTextDelta("", "r", "i", 0, 0, "Yes"),
        *a[2:],
        *b[:2],
        OutputTextDelta("", "r", "i", 0, 0, ",\nyes."),
        ResponseDone("", Response("r", "completed", (), None, "inf")),
        *b[2:],
        ResponseCreated("", Response("s", "in_progress", (), None, "inf")),
        ResponseDone("", Response("s", "cancelled", (), None, "inf", {"type": "cancelled", "reason": "turn_detected"})),
    )
    assert (out, found.words) == ("one two\n» Yes, yes.\nthree\n» [interrupted]\n", 3)


def test_the_clip_of_the_demo() -> None:
    samples = read_clip(CLIP)
    assert 11 < samples.size / RATE < 12
    assert {"LICENSE", "README"} <= {path.name for path in CLIP.parent.iterdir()}


# ── table ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table() -> None:
    turns = [TurnMetrics(first_text_ms=400.0, final_ms=600.0, rtf=0.2), TurnMetrics(final_ms=1000.0)]
    assert metrics_table(turns).splitlines() == [
        "metric         n   p50   p95",
        "first_text_ms  1   400   400",
        "final_ms       2   800   980",
        "rtf            1  0.20  0.20",
    ]
    assert metrics_table([]) == ""


# ── transcribe ──────────────────────────────────────────────────────────────────────────────────────────────────────

FOUND = Transcript("x.wav", 3725.5, (FileTurn(50, 250, "One."), FileTurn(3_725_000, 3_725_100, "word " * 9 + "end")))


def test_formats() -> None:
    assert as_text(FOUND) == f"One.\n{'word ' * 9}end\n"
    found = json.loads(as_json(FOUND))
    assert (found["file"], found["seconds"], found["text"]) == ("x.wav", 3725.5, f"One. {'word ' * 9}end")
    assert found["turns"][0] == {"start_ms": 50, "end_ms": 250, "text": "One.", "words": []}
    assert as_srt(FOUND) == (
        "1\n00:00:00,050 --> 00:00:01,050\nOne.\n\n"
        "2\n01:02:05,000 --> 01:02:06,000\nword word word word word\nword word word word end\n"
    )
    assert as_text(Transcript("x", 1, ())) == as_srt(Transcript("x", 1, ())) == ""


async def transcribed(voxd: FakeVoxd, *files: Path, form: str = "txt") -> bool:
    async with voxd.serve() as target:
        return await transcribe_files(Direct(target), files, form=form, language=None)


def wav(folder: Path, samples: Float32) -> Path:
    path = folder / "clip.wav"
    soundfile.write(path, samples, RATE)
    return path


async def test_transcribing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output has the text alone; the times are those of the voice."""
    assert await transcribed(FakeVoxd(TWO), wav(tmp_path, clip(*SPOKEN)), form="json")
    out, err = capsys.readouterr()
    turns = json.loads(out)["turns"]
    assert [(turn["start_ms"], turn["end_ms"]) for turn in turns] == [(50, 250), (560, 820)]
    assert "clip.wav: 1.0 s in " in err


async def test_one_bad_file_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = wav(tmp_path, clip(*SPOKEN))
    assert not await transcribed(FakeVoxd(TWO), tmp_path / "none.wav", good)
    out, err = capsys.readouterr()
    assert out == "He was not an ill-disposed young man,\nHad he married\n"
    assert "none.wav: there is no such file." in err


async def test_silence_has_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await transcribed(FakeVoxd(), wav(tmp_path, clip()))
    assert capsys.readouterr().out == ""


async def test_a_turn_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = [*utterance("b", 500, 1100)[:3], TranscriptionFailed("", "b", 0, FailureBody("t", "c", "Engine lost."))]
    assert not await transcribed(FakeVoxd([TWO[0], (1200, failed)]), wav(tmp_path, clip(*SPOKEN)))
    out, err = capsys.readouterr()
    assert out == "He was not an ill-disposed young man,\n"
    assert "Engine lost." in err
