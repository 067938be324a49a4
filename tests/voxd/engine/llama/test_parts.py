"""The pure parts of the engine `llama`: what a file says of itself, where weights are, what fits, who is next."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from voxd.engine.contract import Unusable
from voxd.engine.llama import weights
from voxd.engine.llama.build import load_model
from voxd.engine.llama.gguf import NotGguf, read_header
from voxd.engine.llama.options import BUILT_IN, LlamaOptions
from voxd.engine.llama.schedule import LlamaKind, SlotSchedule
from voxd.engine.llama.shortening import FRAMING, Dialogue, prompt
from voxd.engine.llama.weights import find_weights, repository, weights_absent
from voxd.messages import Turn


def text(words: str) -> bytes:
    return struct.pack("<Q", len(words)) + words.encode()


def gguf(*entries: tuple[str, int, bytes], version: int = 3) -> bytes:
    body = b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in entries)
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(entries)) + body


NUMBERS = {
    "context_length": 8192,
    "block_count": 30,
    "embedding_length": 576,
    "attention.head_count": 9,
    "attention.head_count_kv": 3,
}
SMALL = (
    ("general.architecture", 8, text("llama")),
    ("general.tags", 9, struct.pack("<IQ", 8, 2) + text("one") + text("two")),
    ("general.name", 8, text("Tiny")),
    *((f"llama.{key}", 4, struct.pack("<I", value)) for key, value in NUMBERS.items()),
)


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf(*SMALL, ("tokenizer.ggml.tokens", 9, b"cut off here")))
    header = read_header(path)
    assert (header.name, header.architecture, header.context, header.hears) == ("Tiny", "llama", 8192, False)
    assert header.per_token == 2 * 2 * 30 * 3 * 64


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no GGUF file"),
        (b"PK\x03\x04 a zip", "no GGUF file"),
        (b"GGUF\x03\x00", "in the middle of its head"),
        (gguf(*SMALL, version=1), "version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "version 50331648"),
        (gguf(("general.name", 8, text("Tiny"))), "general.architecture"),
        (gguf(("general.name", 77, b"")), "no type of value 77"),
        (gguf(("clip.has_audio_encoder", 7, b"\x01"), ("general.architecture", 8, text("clip"))), "only a projector"),
    ],
)
def test_what_is_no_model_is_refused_by_name(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(Unusable, match=words):
        load_model(LlamaOptions(model=str(path)), lambda _: None)
    if "projector" not in words:
        with pytest.raises(NotGguf):
            read_header(path)


def test_names_of_the_hub_are_told_from_files() -> None:
    assert repository("ggml-org/Tiny-GGUF:tiny-q4.gguf") == ("ggml-org/Tiny-GGUF", "tiny-q4.gguf")
    for other in ("smollm2-135m", "/srv/a.gguf", "./a/b:c.gguf", "one:two.gguf", "a/b:c.bin", "a/b"):
        assert repository(other) is None


def test_weights_are_found_in_the_hubs_cache_and_missing_ones_named(tmp_path: Path) -> None:
    environment = {"HF_HUB_CACHE": str(tmp_path)}
    model = "ggml-org/Tiny-GGUF:tiny.gguf"
    assert weights_absent(model, environment) == f"its weights are not here: voxd pull {model}"
    folder = tmp_path / "models--ggml-org--Tiny-GGUF" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(b"")
    assert weights_absent(model, environment) is None
    assert find_weights(model, environment) == folder / "tiny.gguf"
    with pytest.raises(Unusable, match="there is no file /nowhere/a"):
        find_weights("/nowhere/a.gguf", environment)


def test_the_carried_file_is_checked_and_its_package_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(weights, "CARRIER", "a_carrier")
    assert weights.PACKAGE in (weights_absent(BUILT_IN, {}) or "")
    (tmp_path / "a_carrier").mkdir()
    (tmp_path / "a_carrier" / "__init__.py").write_text("raise AssertionError('code of the carrier was run')")
    (tmp_path / "a_carrier" / weights.CARRIED).write_bytes(b"GGUF and something else")
    assert weights_absent(BUILT_IN, {}) is None
    with pytest.raises(Unusable, match="not the file that voxd was tested with"):
        find_weights(BUILT_IN, {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modle": "a.gguf"}, "model"),
        ({"temperature": 3}, "0 to 2"),
        ({"threads": -1}, "threads"),
        ({"slots": 0}, "slots"),
        ({"think": "yes"}, "think"),
    ],
)
def test_options_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(Unusable, match=words):
        LlamaOptions.parse(options)


def test_a_model_that_does_not_fit_into_the_memory_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, meminfo = tmp_path / "m.gguf", tmp_path / "meminfo"
    path.write_bytes(gguf(*SMALL))
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 100000 kB\n")
    monkeypatch.setattr("voxd.engine.llama.build.MEMINFO", meminfo)
    monkeypatch.setattr("voxd.engine.llama.build.devices", lambda: ())
    with pytest.raises(Unusable, match=r"0\.2 GB; 0\.1 GB are free.*max_context"):
        load_model(LlamaOptions(model=str(path)), lambda _: None)


# ── what fits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def talk(count: int, words: str = "one two three four five six seven eight") -> tuple[Turn, ...]:
    return tuple(Turn("user" if n % 2 == 0 else "assistant", f"{n} {words}", ref=n) for n in range(count))


def test_the_oldest_half_goes_once_and_prompts_begin_alike_after_that() -> None:
    dialogue, head = Dialogue(), (Turn("system", "Be brief."),)
    firsts = []
    for count in range(1, 60, 2):
        read = dialogue.fit((*head, *talk(count)), 400)
        assert read is not None
        assert (read[0], read[-1]) == (head[0], talk(count)[-1])
        firsts.append(read[1])
    assert len(set(firsts)) <= 6, "nearly every prompt begins as the one before"
    assert firsts[-1] != firsts[0]


def test_the_estimate_is_learned_from_what_prompts_had() -> None:
    dialogue, turns = Dialogue(), talk(9)
    assert dialogue.fit(turns, 200) != turns
    dialogue = Dialogue()
    dialogue.learn(turns, FRAMING * 9 + 40)
    assert dialogue.fit(turns, 200) == turns


def test_one_turn_that_is_too_long_does_not_fit_and_an_aside_shortens_nothing_for_good() -> None:
    dialogue = Dialogue()
    assert dialogue.fit((Turn("user", "word " * 400),), 200) is None
    assert dialogue.fit((*talk(4), Turn("user", "word " * 400)), 200) is None
    assert dialogue.fit(talk(40), 200, aside=True) is not None
    assert dialogue.first is None


def test_parts_of_an_item_stay_together() -> None:
    item = (Turn("user", "a" * 100), Turn("user", "b" * 100, continues=True), Turn("user", "c" * 100, continues=True))
    read = Dialogue().fit((*talk(8), *item, *talk(1, "x" * 100)), 320)
    assert read is not None
    assert not read[0].continues


def test_instructions_in_the_middle_are_the_persons() -> None:
    turns = (Turn("system", "A"), Turn("system", "B"), Turn("user", "C"), Turn("system", "D"))
    assert prompt(turns) == [{"role": "system", "content": "A\nB"}, {"role": "user", "content": "C\nD"}]


# ── who is next ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class Wish:
    stream: int
    kind: LlamaKind = LlamaKind.WANTED
    aside: bool = False


def run(schedule: SlotSchedule[Wish], *wishes: Wish) -> tuple[list[tuple[int, int]], list[Wish]]:
    """(stream, slot) of those that begin, and those that gave way."""
    for wish in wishes:
        schedule.add(wish)
    begun, gone = schedule.begin()
    return [(wish.stream, slot) for wish, slot in begun], gone


def test_a_conversation_goes_back_to_its_slot_and_the_one_longest_at_rest_gives_its_own() -> None:
    schedule = SlotSchedule[Wish](2)
    one, two, again, three = Wish(1), Wish(2), Wish(1), Wish(3)
    assert run(schedule, one, two)[0] == [(1, 0), (2, 1)]
    schedule.remove(one)
    schedule.remove(two)
    assert run(schedule, again)[0] == [(1, 0)]
    schedule.remove(again)
    assert run(schedule, three)[0] == [(3, 1)], "stream 2 was used longest ago"


def test_what_nobody_waits_for_gives_way() -> None:
    schedule = SlotSchedule[Wish](1)
    ahead, wanted, other = Wish(1, LlamaKind.AHEAD), Wish(2), Wish(3, LlamaKind.AHEAD)
    assert run(schedule, ahead)[0] == [(1, 0)]
    assert run(schedule, other) == ([], [])
    assert run(schedule, wanted) == ([(2, 0)], [ahead])
    schedule.remove(wanted)
    assert run(schedule)[0] == [(3, 0)]


def test_what_is_wanted_waits_for_what_is_wanted_and_closed_streams_leave_their_slots() -> None:
    schedule = SlotSchedule[Wish](2)
    one, aside = Wish(1), Wish(1, aside=True)
    assert run(schedule, one, aside)[0] == [(1, 0), (1, 1)]
    assert run(schedule, Wish(1), Wish(2)) == ([], [])
    schedule.remove(one)
    schedule.forget(1)
    assert run(schedule)[0] == [(1, 0)]
