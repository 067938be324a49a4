"""voxtui.session.saving: files that hold what was said, in which nothing that was said is more than text."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from shared.events import OutputTextDelta, ResponseCreated
from shared.latency import TurnMetrics
from tests.support.fakes import utterance
from tests.support.scenes import answered, opening, response, typed
from voxtui.events import Disconnected, Event, Measured, Remark, Wiped
from voxtui.session.saving import FORMS, Keeper, as_json, as_markdown, as_srt, write
from voxtui.session.transcript import Entry, EntryProgress, State, Voice, plain_text, reduce


def after(*events: Event, state: State | None = None) -> State:
    state = state or State()
    for event in events:
        state = reduce(state, event)
    return state


def talk() -> State:
    first = utterance("a", 1500, 61_250, "He was not an ill-disposed", " young man.", metrics=False)
    return after(
        *opening("mini"),
        *first,
        Measured("a", TurnMetrics(final_ms=640.0), complete=True),
        Remark("A note."),
        *answered("r", "Unless *selfish*\nis."),
        typed("And then?"),
    )


def test_text() -> None:
    assert plain_text(talk()) == (
        "You: He was not an ill-disposed young man.\n\nmini: Unless *selfish*\nis.\n\nYou: And then?\n"
    )
    assert plain_text(after(*opening(), *utterance("a", 0, 9, " x "), *utterance("b", 9, 19, "y"))) == "x\ny\n"


def test_markdown() -> None:
    assert as_markdown(talk()) == (
        "**You** *00:00:01*\n\nHe was not an ill-disposed young man.\n\n"
        "**mini**\n\nUnless \\*selfish\\*\\\nis.\n\n"
        "**You**\n\nAnd then?\n"
    )


def test_json() -> None:
    found = json.loads(as_json(talk()))
    assert (found["transcriber"], found["responder"]) == ("whisper", "mini")
    assert found["entries"][0] == {
        "by": "user",
        "text": "He was not an ill-disposed young man.",
        "complete": True,
        "start_ms": 1500,
        "end_ms": 61_250,
        "metrics": {"final_ms": 640.0},
    }
    assert [entry["by"] for entry in found["entries"]] == ["user", "model", "user"]


def test_subtitles() -> None:
    """A minute of slow speech is several captions."""
    found = as_srt(talk())
    assert found.startswith("1\n00:00:01,500 --> 00:00:0")
    assert " ".join(re.findall(r"^[^\d\n].*$", found, re.MULTILINE)) == "He was not an ill-disposed young man."


def test_subtitles_of_a_second_session_lie_behind_the_first() -> None:
    """Each session of the server counts from 0."""
    one = after(*opening(), *utterance("a", 1000, 3000, "one"), Disconnected("gone"))
    two = after(*opening(), *utterance("b", 500, 2000, "two"), state=one)
    assert re.findall(r"^[\d:,]+ --> [\d:,]+", as_srt(two), re.MULTILINE) == [
        "00:00:01,000 --> 00:00:03,000",
        "00:00:03,500 --> 00:00:05,000",
    ]


def said(text: str, voice: Voice = Voice.USER) -> State:
    return State(entries=(Entry("a", voice, text, progress=EntryProgress.DONE, start_ms=0, end_ms=9),), responder="m")


@pytest.mark.parametrize(
    "text",
    ["# x", "- x", "1. x", "> x", "[a](http://b)", "![a](http://b)", "<img src=x>", "`x`", "a_b_", "&lt;", "=", "$x$"],
)
def test_nothing_acts_in_markdown(text: str) -> None:
    line = as_markdown(said(text)).splitlines()[2]
    assert line != text
    assert re.sub(r"\\(.)", r"\1", line) == text
    assert not re.search(r"(?<!\\)[`*_\[\]<>!#&$]", line)


@given(st.text(alphabet="a<>{}\\-\n\r 1:,0", max_size=60))
def test_a_cue_holds_one_cue(text: str) -> None:
    """Nothing that is said can begin another cue, or give a player an order."""
    found = as_srt(said(text))
    assert found.count("-->") == (1 if text.strip() else 0)
    if text.strip():
        body = found.removesuffix("\n\n").split("\n", 2)[2]
        assert "\n\n" not in body
        assert not set(body) & set("<>{}")


@given(st.text(max_size=60))
def test_json_holds_any_text(text: str) -> None:
    entries = json.loads(as_json(said(text)))["entries"]
    assert [entry["text"] for entry in entries] == ([text.strip()] if text.strip() else [])


def test_a_file_is_new_and_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    write(file, "hé\n")
    assert file.read_text() == "hé\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write(file, "other")
    assert set(FORMS) == {"Text", "Markdown", "JSON", "Subtitles"}


def kept(events: list[Event], path: Path) -> str:
    keeper, state = Keeper(path), State()
    for event in events:
        before, state = state, reduce(state, event)
        keeper.keep(before, state)
    return path.read_text() if keeper.kept else ""


def test_each_entry_is_kept_once_as_it_ends(tmp_path: Path) -> None:
    begun: list[Event] = [ResponseCreated("", response("in_progress", "s")), OutputTextDelta("", "s", "i", 0, 0, "No")]
    events = [*opening("mini"), *utterance("a", 0, 9, "x"), Remark("note"), *answered("r", "y"), Wiped(), *begun]
    assert kept(events, tmp_path / "1") == "You: x\n\nmini: y\n\n"
    assert kept([*events, Disconnected("gone")], tmp_path / "2") == "You: x\n\nmini: y\n\nmini: No\n\n"
    assert kept([*opening(), *utterance("a", 0, 9)], tmp_path / "3") == ""
    assert not (tmp_path / "3").exists()


def test_a_transcript_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "talk").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        kept([*opening(), *utterance("a", 0, 9, "x")], tmp_path / "talk")
