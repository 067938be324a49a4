"""Batches to a device and ids back: step by step here, as captured graphs where there is a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.tiny_mini import folder as mini_folder
from tests.support.tiny_voxtral import folder, speechlike
from voxd.engine.gpu.batch import Row
from voxd.engine.gpu.graphs import Captured, Eager, fill
from voxd.engine.mini.build import build
from voxd.engine.mini.interface import LAST_TOKEN as SAID_MINI, NONE_HIGHER, SPAN, MiniDevice, MiniOptions, audio, bits
from voxd.engine.mini.model import MiniCheckpoint
from voxd.engine.realtime.build import WIDTH
from voxd.engine.realtime.model import LAST_TOKEN, HistoryLimit, RealtimeCheckpoint, RealtimeModel


def test_a_row_is_its_numbers_and_then_its_bytes() -> None:
    table = np.full((3, 4), 7, np.int32)
    fill(table, [Row((1, -1), np.array([5, 6], np.int32).tobytes()), Row((2, 3), bytes(8))])
    assert table.tolist() == [[1, -1, 5, 6], [2, 3, 0, 0], [7, 7, 7, 7]]


def test_step_by_step_each_batch_is_computed_when_it_is_given() -> None:
    seen: list[list[int]] = []

    def step(table: torch.Tensor) -> torch.Tensor:
        seen.append(table[:, 1].tolist())
        return table[:, 0].long() * 2

    runner = Eager(step, 2, 4)
    flights = [runner.submit([Row((n,), np.int32(10 * n).tobytes()) for n in ns]) for ns in ((1, 2, 3), (4,))]
    assert seen == [[10, 20, 30], [40]]
    assert [flight.token_ids() for flight in flights] == [[2, 4, 6], [8]]
    assert all(flight.took_us >= 0 for flight in flights)


def test_a_table_is_taken_as_it_is_and_a_row_may_have_no_bytes() -> None:
    """A prompt is some hundred rows, of which a single id comes."""
    seen: list[list[list[int]]] = []

    def step(table: torch.Tensor) -> torch.Tensor:
        seen.append(table.tolist())
        return table[-1:, 0].long()

    runner = Eager(step, 2, 4)
    given = np.array([[1, 2], [3, 4], [5, 6]], np.int32)
    flights = [runner.submit(given), runner.submit([Row((7, 8), b""), Row((9, 10), b"")])]
    given[:] = 0
    assert seen == [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10]]]
    assert [flight.token_ids() for flight in flights] == [[5], [9]]


def said(runner: Eager | Captured, model: RealtimeModel) -> list[list[int]]:
    """The ids of three clips, two of which join later, with two steps in flight."""
    clips = [(speechlike(4.0, seed) * 32768).astype("<i2") for seed in (1, 2, 3)]
    slots = [model.slots.take() for _ in clips]
    found, flights = [], []
    for slot in slots:
        model.join(slot, 6)
    for frame in range(2, 40):
        rows = []
        for late, (slot, clip) in enumerate(zip(slots, clips, strict=True)):
            position = 31 + frame - 2 - 5 * late
            if position >= 31:
                token = 32 if position <= 38 else LAST_TOKEN
                rows.append(Row((slot, position, token, 6), clip[1280 * frame : 1280 * frame + 2000].tobytes()))
        flights.append(runner.submit(rows))
        if len(flights) == 2:
            found.append(flights.pop(0).token_ids())
    for slot in slots:
        model.slots.give(slot)
    return [*found, flights[0].token_ids()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_graphs_say_what_single_steps_say() -> None:
    from voxd.engine.gpu.triton_ops import Triton  # the definition looks at positions on the host: no capture of it

    checkpoint = RealtimeCheckpoint.load(str(folder(0)), "cuda", torch.float32, lambda text: None)
    model = RealtimeModel(
        checkpoint.model, checkpoint.extractor, checkpoint.special, HistoryLimit(120, 44), 5, Triton()
    )
    plain = said(Eager(model.step, WIDTH, 4, "cuda"), model)
    assert said(Captured(model.step, WIDTH, (1, 2, 4), lambda text: None), model) == plain


def spoken(device: MiniDevice) -> list[int]:
    """The results of two windows, then five prompts with parts of them, then batches of all sizes, with two steps in
    flight."""
    slots, places = [device.slots.take() for _ in range(5)], [device.places.take() for _ in range(2)]
    pages = [[device.pages.take() for _ in range(8)] for _ in slots]
    found, lengths, flights = [], [], []
    for place in places:
        pcm = (speechlike(30.1, place) * 32768).astype("<i2")[:SPAN].tobytes()
        found += device.encoder.submit([Row((place, bits(NONE_HIGHER)), pcm)]).token_ids()
    for i, slot in enumerate(slots):
        sources = [1, 3, *(audio(places[i % 2], k) for k in range(75 * (i + 1))), *[1100 + i] * i, 4]
        lengths.append(len(sources))
        last = len(sources) - 1
        rows = [(slot, p, each, pages[i][p // 64], int(p == last), 0, 0, 0) for p, each in enumerate(sources)]
        found += device.prefill.submit([Row(row, b"") for row in rows]).token_ids()
    for step in range(20):
        rows = []
        for i in range(1 + step % 5):
            rows.append((slots[i], lengths[i], SAID_MINI, pages[i][lengths[i] // 64], 1, 0, 0, 0))
            lengths[i] += 1
        flights.append(device.decode.submit([Row(row, b"") for row in rows]))
        if len(flights) == 2:
            found += flights.pop(0).token_ids()
    return found + flights[0].token_ids()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_conversations_say_what_single_steps_say() -> None:
    def once(eager: bool) -> list[int]:
        checkpoint = MiniCheckpoint.load(str(mini_folder(0)), "cuda", torch.float32, lambda text: None)
        options = MiniOptions(max_conversations=8, max_context=1024)
        return spoken(build(checkpoint, options, lambda text: None, eager=eager, memory=1 << 30))

    assert once(eager=False) == once(eager=True)
