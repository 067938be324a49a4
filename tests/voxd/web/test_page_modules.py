"""The page's modules in a real browser compute what voxtui and voxd compute, value by value."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import numpy as np
import pytest

from shared.audio import to_samples
from shared.events import (
    Content,
    Item,
    ItemAdded,
    Metrics,
    OutputTextDelta,
    Response,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    SessionCreated,
    TranscriptionDelta,
    dump,
)
from shared.latency import VOXD_ONLY, SampleClock, percentile
from shared.session_config import Extensions, RealtimeSession
from tests.support.chromium import CHROMIUM, Page, chromium
from tests.support.fakes import utterance
from tests.voxd.web.test_page_live import ECHO, url, voxd
from voxtui.session.meter import Meter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@asynccontextmanager
async def modules() -> AsyncIterator[Page]:
    """A page from which the modules can be imported."""
    with voxd(*ECHO) as (_, port, _token):
        async with chromium() as page:
            await page.go(url(port))
            yield page


def response(key: str, status: Literal["in_progress", "completed"]) -> Response:
    return Response(key, status, (), None, "inf")


def conversation() -> list[tuple[ServerEvent, float]]:
    """Two utterances, one of them answered, and a typed question; with the times (ms) at which they came."""
    asked = Item("i9", "user", (Content("input_text", text="And now?"),), "completed")
    session = RealtimeSession(id="s", model="m", voxd=Extensions(metrics=True, transcribe="w", respond="e"))
    reported = {"speech_start_ms": 1300, "speech_end_ms": 2000}
    events: list[ServerEvent] = [
        SessionCreated("", session),
        *utterance("u1", 1000, 2500, "Hello ", "there"),
        TranscriptionDelta("", "u2", 0, "late", 2400),
        ResponseCreated("", response("r1", "in_progress")),
        *(OutputTextDelta("", "r1", "i1", 0, 0, text) for text in ("It ", "", "was")),
        ResponseDone("", response("r1", "completed")),
        Metrics(
            "",
            "response",
            "u1",
            {},
            {"ttft_server_ms": 14.5, "ttft_engine_ms": 3.25, "saved_ms": 41.5},
            reported,
            {},
            1.0,
            response_id="r1",
            rtf=0.25,
        ),
        ItemAdded("", asked, None),
        ResponseCreated("", response("r2", "in_progress")),
        OutputTextDelta("", "r2", "i2", 0, 0, "yes"),
        ResponseDone("", response("r2", "completed")),
    ]
    return [(event, 1500 + 211.5 * number) for number, event in enumerate(events)]


async def test_the_figures_are_those_of_voxtui() -> None:
    """Both meters are given the same events at the same times: every figure is the same, and so is its absence."""
    clock = SampleClock()
    for end in range(20, 5000, 20):
        clock.record(to_samples(end), end * 1000)
    meter = Meter(clock)
    expected = []
    for event, at in conversation():
        if isinstance(event, ItemAdded):
            meter.asked(int(at * 1000))
        measured = meter.receive(event, int(at * 1000))
        expected.append(measured and {"key": measured.key, **measured.metrics.as_dict()})
    told = [[json.loads(dump(event)), at] for event, at in conversation()]
    async with modules() as page:
        found = await page.evaluate(f"""(async () => {{
          const {{Meter}} = await import('/page/meter.js');
          const {{SampleClock}} = await import('/page/latency.js');
          const clock = new SampleClock();
          for (let end = 20; end < 5000; end += 20) clock.record(end, end);
          const meter = new Meter(clock);
          return {json.dumps(told)}.map(([event, at]) => {{
            if (event.type === 'conversation.item.added') meter.asked(at);
            const measured = meter.receive(event, at);
            return measured && {{key: measured.key, ...measured.metrics}};
          }});
        }})()""")
    assert [each is None for each in found] == [each is None for each in expected]
    assert sum(each is not None for each in expected) >= 6
    assert set(VOXD_ONLY) <= {name for each in found for name in each or ()}
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine or {}) == pytest.approx(theirs or {}, abs=0.01)


async def test_percentiles_and_packets_are_those_of_voxd() -> None:
    samples = [random.Random(seed).choices(range(2000), k=seed) for seed in range(1, 40)]
    sound = np.asarray(np.random.default_rng(1).uniform(-1.2, 1.2, 1000), np.float32)
    async with modules() as page:
        found = await page.evaluate(f"""import('/page/latency.js').then(({{percentile}}) =>
          {json.dumps(samples)}.map(values => [percentile(values, 50), percentile(values, 95)]))""")
        packets = await page.evaluate(f"""import('/page/framer.js').then(({{Framer}}) => {{
          const framer = new Framer(16000), out = [], sound = Float32Array.from({json.dumps(sound.tolist())});
          for (let at = 0; at < sound.length; at += 128) out.push(...framer.push(sound.subarray(at, at + 128)));
          return out.map(({{pcm}}) => [...new Int16Array(pcm)]);
        }})""")
    assert found == [pytest.approx([percentile(each, 50), percentile(each, 95)]) for each in samples]
    expected = np.clip(np.floor(sound[:960] * 32768 + 0.5), -32768, 32767).astype(int)
    assert [len(packet) for packet in packets] == [320, 320, 320], "20 ms each; what is left over waits"
    assert np.concatenate(packets).tolist() == expected.tolist()


KEPT = """
const packet = number => Int16Array.of(number, number).buffer;
const kept = new Kept(100); // two samples in 20 ms
const all = () => { const found = []; for (let one; (one = kept.take());) found.push(one.offset / 2); return found; };
const created = () => kept.receive({type: 'session.created', session: {voxd: {resume_token: 't'}}});
const ack = settled => kept.receive({type: 'voxd.ack', received_samples: 0, settled_samples: settled, voxd_seq: 7});
const add = count => { for (let n = 0; n < count; n += 1) kept.add(packet(n), 20 * n); };
"""


async def kept(steps: str) -> object:
    """The result of these statements; positions are packets of the session."""
    async with modules() as page:
        return await page.evaluate(f"import('/page/kept.js').then(({{Kept}}) => {{ {KEPT} {steps} }})")


async def test_a_link_that_is_too_slow_loses_the_oldest_sound_and_counts_it() -> None:
    found = await kept("""created(); add(1550); const lost = kept.lost; const sent = all();
      add(1500); ack(6); return {lost, sent: [sent[0], sent.at(-1)], after: kept.lost, waiting: kept.waiting};""")
    assert found == {"lost": 50, "sent": [50, 1549], "after": 50, "waiting": 1500}, "30 s are kept; positions stay true"


async def test_a_session_that_goes_on_is_given_what_it_has_not() -> None:
    found = await kept("""add(3); const early = all(); created(); const first = all(); add(4); all(); ack(4);
      kept.cut(); add(2); const cut = all();
      kept.receive({type: 'voxd.resumed', received_samples: 11});
      return {early, first, cut, again: all(), token: kept.token, seq: kept.seq};""")
    assert found == {"early": [], "first": [0, 1, 2], "cut": [], "again": [5, 6, 7, 8], "token": "t", "seq": 7}


async def test_a_session_that_knows_nothing_is_given_what_is_not_yet_text() -> None:
    found = await kept("""created(); add(10); all(); ack(8); kept.cut(); add(1); created();
      return {again: all(), times: [...kept.times()].slice(0, 2)};""")
    assert found == {"again": [0, 1, 2, 3, 4, 5, 6], "times": [[20, 80], [40, 100]]}


async def test_behind_a_call_only_what_it_may_have_lost_is_sent() -> None:
    found = await kept("add(10); kept.since(140); created(); return [all(), kept.lost];")
    assert found == [[0, 1], 0]


HOSTILE = "a\u202eb\x1b[2Jc<img src=x onerror=alert(1)>"


async def test_text_of_a_server_acts_on_nothing() -> None:
    event = {"type": "response.output_text.delta", "response_id": "r", "delta": HOSTILE}
    async with modules() as page:
        ops = await page.evaluate(f"""import('/page/transcript.js').then(({{Transcript}}) =>
          new Transcript().receive({json.dumps(event)}))""")
    assert [op["op"] for op in ops] == ["open", "append"]
    assert ops[1]["text"] == "a\ufffdb\ufffd[2Jc<img src=x onerror=alert(1)>"


async def test_an_entry_that_has_gone_from_the_screen_is_no_place_for_text() -> None:
    async with modules() as page:
        found = await page.evaluate("""import('/page/view.js').then(({Turns}) => {
          const list = document.createElement('ol'), turns = new Turns(list, 'voxd');
          turns.apply({op: 'open', key: 'k', voice: 'user'});
          for (let n = 0; n < 400; n += 1) turns.apply({op: 'note', text: String(n)});
          turns.apply({op: 'append', key: 'k', text: 'late'}, 0, () => {});
          turns.apply({op: 'close', key: 'k', broken: false, remark: ''});
          return [list.childElementCount, list.textContent.includes('late')];
        })""")
    assert found == [300, False]


OPS: Sequence[tuple[list[dict[str, object]], list[str]]] = (
    ([{"type": "error", "error": {"message": "No."}}], ["note"]),
    ([{"type": "unheard.of"}, {"type": "unreadable"}], []),
    (
        [
            {"type": "input_audio_buffer.speech_started", "item_id": "u"},
            {"type": "conversation.item.input_audio_transcription.completed", "item_id": "u", "transcript": " "},
        ],
        ["open", "speech", "drop"],
    ),
)


async def test_a_cough_leaves_no_trace_and_nonsense_does_nothing() -> None:
    async with modules() as page:
        for events, expected in OPS:
            ops = await page.evaluate(f"""import('/page/transcript.js').then(({{Transcript}}) => {{
              const transcript = new Transcript();
              return {json.dumps(events)}.flatMap(event => transcript.receive(event)).map(op => op.op);
            }})""")
            assert ops == expected
