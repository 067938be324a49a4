"""The page's reducers and voxtui's are two implementations of one: fed the same sessions, they show and count the same.

The sessions are those of tests/golden, which are the daemon's own bytes, and random histories of a link.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from shared import events
from shared.audio import to_samples
from shared.latency import SampleClock
from shared.session_config import Extensions, RealtimeSession
from tests.support.node import NODE, evaluate
from voxtui.link.replay import PACKET, Replay
from voxtui.session.meter import Meter
from voxtui.session.transcript import EntryProgress, State, reduce

pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("*.jsonl"))


def golden(path: Path) -> list[dict[str, Any]]:
    """The server events of a golden session."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line["event"] for line in lines if "event" in line]


def parsed(sent: list[dict[str, Any]]) -> list[events.ServerEvent]:
    return [events.parse_server(json.dumps(event).encode()) for event in sent]


SHOWN = """
const { Transcript } = await load("transcript");
const transcript = new Transcript(), entries = new Map();
let speech = "listening", notes = 0;
const states = [];
for (const event of given[0]) {
  for (const op of transcript.receive(event)) {
    const entry = entries.get(op.key);
    if (op.op === "open") entries.set(op.key, { voice: op.voice, text: "", guess: "", state: "open", remark: "" });
    if (op.op === "append") Object.assign(entry, { text: entry.text + op.text, guess: "" });
    if (op.op === "guess") entry.guess = op.text;
    if (op.op === "close") Object.assign(entry, { state: op.broken ? "broken" : "done", guess: "", remark: op.remark });
    if (op.op === "drop") entries.delete(op.key);
    const note = { voice: "note", text: op.text, state: "done", remark: "" };
    if (op.op === "note") entries.set(`note ${(notes += 1)}`, note);
    if (op.op === "speech") speech = op.state;
  }
  const seen = [...entries.values()].filter(({ text, state }) => text || state === "broken");
  states.push([speech, seen.map(({ voice, text, guess, state, remark }) => [voice, text, guess ?? "", state, remark])]);
}
return states;
"""


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_both_clients_show_the_same_after_every_event(path: Path) -> None:
    """Entries without a word are left out: the page opens a row where the screen waits for the first word."""
    sent, state = golden(path), State()
    expected = []
    for event in parsed(sent):
        state = reduce(state, event)
        shown = [
            [entry.voice.value, entry.text, entry.provisional, entry.progress.value, entry.remark]
            for entry in state.entries
            if entry.text or entry.progress is EntryProgress.BROKEN
        ]
        expected.append([state.speech.value, shown])
    found = evaluate(SHOWN, sent)
    assert found == expected
    assert expected[-1][1], "a session in which something was said"


COUNTED = """
const { Meter } = await load("meter"), { SampleClock } = await load("latency");
const clock = new SampleClock();
for (let end = 20; end <= 20000; end += 20) clock.record(end, end);
const meter = new Meter(clock);
return given[0].map((event, number) => {
  const measured = meter.receive(event, 1500 + 211.5 * number);
  return measured && { key: measured.key, ...measured.metrics };
});
"""


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_both_clients_count_the_same(path: Path) -> None:
    """All but `stood`, which the page takes from `voxd.metrics` alone; these sessions have none."""
    sent, clock = golden(path), SampleClock()
    for end in range(20, 20_020, 20):
        clock.record(to_samples(end), end * 1000)
    meter, expected = Meter(clock), []
    for number, event in enumerate(parsed(sent)):
        measured = meter.receive(event, int(1000 * (1500 + 211.5 * number)))
        if measured is not None:
            measured.metrics.stood = None
        expected.append(measured and {"key": measured.key, **measured.metrics.as_dict()})
    found = evaluate(COUNTED, sent)
    assert isinstance(found, list)
    assert [each is None for each in found] == [each is None for each in expected]
    assert any(expected) or path.stem == "push_to_talk_and_errors", "a session in which something is measured"
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine or {}) == pytest.approx(theirs or {}, abs=0.01)


SENT = """
const { Kept } = await load("kept");
return given[0].map((steps) => {
  const kept = new Kept(16000), out = [];
  for (const [step, count] of steps) {
    if (step === "add") for (let n = 0; n < count; n += 1) kept.add(new ArrayBuffer(0), 0);
    for (let n = 0, one; step === "take" && n < count && (one = kept.take()); n += 1) out.push([one.offset, kept.lost]);
    if (step === "created") kept.receive({ type: "session.created", session: { voxd: { resume_token: "t" } } });
    if (step === "resumed") kept.receive({ type: "voxd.resumed", received_samples: count });
    if (step === "ack") kept.receive({ type: "voxd.ack", received_samples: count, settled_samples: count });
    if (step === "cut") kept.cut();
    out.push([step, kept.waiting]);
  }
  return out;
});
"""
SESSION = RealtimeSession(id="s", model="m", voxd=Extensions(resume_token="t"))


def history(seed: int) -> tuple[list[tuple[str, int]], list[list[Any]]]:
    """Steps of a link that breaks and comes back, and what voxtui does.

    It gives the offset of each packet that goes out with the packets lost until then, and after each step what waits.
    """
    draw, replay, out = random.Random(seed), Replay(), list[list[Any]]()
    steps: list[tuple[str, int]] = []
    greeted, base, had, settled = False, 0, 0, 0

    def step(name: str, count: int = 0) -> None:
        steps.append((name, count))
        out.append([name, replay.unsent // PACKET])

    for _ in range(60):
        count = draw.choice((1, 3, 20, 700))
        match draw.choice(("add", "add", "take", "take", "take", "ack", "cut", "back", "back")):
            case "add":
                replay.append(bytes(2 * PACKET * count))
                step("add", count)
            case "take":
                if greeted:
                    for _packet in range(count):
                        if (packet := replay.packet()) is None:
                            break
                        out.append([packet.voxd_offset, replay.lost // PACKET])
                        had = base + int(packet.voxd_offset or 0) + PACKET
                step("take", count)
            case "ack" if greeted:
                settled = draw.randrange(settled, had + 1, PACKET) if had > settled else settled
                replay.receive(events.Ack("", settled - base, settled - base))
                step("ack", settled - base)
            case "cut" if greeted:
                greeted = False
                had = draw.randrange(settled, had + 1, PACKET) if had > settled else had  # the rest was lost on its way
                step("cut")
            case "back" if not greeted and (base == had == 0 or draw.random() < 0.3):
                replay.created(events.SessionCreated("", SESSION))
                base = had = replay.sent
                settled = max(settled, base)
                greeted = True
                step("created")
            case "back" if not greeted:
                replay.resumed(events.Resumed("", had - base))
                greeted = True
                step("resumed", had - base)
            case _:
                pass
    return steps, out


def test_both_clients_send_the_same_sound_again() -> None:
    histories = [history(seed) for seed in range(40)]
    found = evaluate(SENT, [steps for steps, _ in histories])
    assert isinstance(found, list)
    assert sum(name == "resumed" for steps, _ in histories for name, _ in steps) > 20
    for (steps, expected), mine in zip(histories, found, strict=True):
        assert mine == expected, steps
    packets = [each for _, out in histories for each in out if isinstance(each[0], int)]
    assert len(packets) > 1000
    assert any(lost for _, lost in packets), "in some of them sound is lost"
