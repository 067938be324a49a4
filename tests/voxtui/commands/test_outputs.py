"""Which files `voxtui transcribe` takes, where their transcripts go, and the line that tells how far it is."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, strategies as st

from shared.audio import RATE
from voxtui.commands.outputs import Destinations, SoundFile, sound_files
from voxtui.commands.progress import line
from voxtui.errors import SourceError


def test_a_folder_is_its_sounds_and_those_of_its_folders(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.WAV", "notes.txt", ".hidden.wav", "sub/c.opus", ".git/d.wav", "sub/empty/x.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = list(sound_files([tmp_path, Path("-"), tmp_path / "notes.txt", tmp_path / "sub" / "empty"]))
    *files, problem = found
    assert [str(each.below) for each in files if isinstance(each, SoundFile)] == [
        "a.WAV", "b.mp4", "sub/c.opus", "stdin", "notes.txt",
    ]  # fmt: skip
    assert isinstance(problem, SourceError)
    assert "no sound file" in str(problem)


def test_where_transcripts_go(tmp_path: Path) -> None:
    one, two = SoundFile(Path("x/talk.mp3"), Path("talk.mp3")), SoundFile(Path("x/talk.wav"), Path("talk.wav"))
    assert Destinations(None, "txt", many=True).of(one) is None
    assert Destinations(str(tmp_path / "out.srt"), "srt", many=False).of(one) == tmp_path / "out.srt"
    folder = Destinations(str(tmp_path / "new"), "srt", many=True)
    assert folder.of(one) == tmp_path / "new" / "talk.srt"
    assert folder.of(two) == tmp_path / "new" / "talk.wav.srt", "no transcript takes the place of another"
    assert Destinations(str(tmp_path), "vtt", many=False).of(one) == tmp_path / "talk.vtt"
    assert Destinations(f"{tmp_path}/later/", "vtt", many=False).of(one) == tmp_path / "later" / "talk.vtt"


def test_how_far_it_is() -> None:
    told = line("talk.mp3", 60 * RATE, 600 * RATE, 5.0, 100)
    assert told == "talk.mp3   10 %  1:00 of 10:00, 12.0 times as fast as it was said, 0:45 left"
    assert line("talk.mp3", 0, 600 * RATE, 0.1, 100) == "talk.mp3  0:00 of 10:00"
    assert line("-", 3661 * RATE, 0, 10.0, 100).startswith("-  1:01:01, 366.1 times")


@given(st.text(max_size=80), st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1e6), st.integers(1, 200))
def test_it_fits_into_a_row(name: str, done: int, whole: int, elapsed_s: float, width: int) -> None:
    assert len(line(name, done, whole, elapsed_s, width)) < width or width == 1
