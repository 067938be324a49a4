"""`voxd bench-engine` for Voxtral Mini: its device's steps beside the least that the machine allows.  Not in the path.

As in `bench_realtime`, random weights are as fast as real ones, and figures are p50 where nothing else is said.  It
knows the device from outside, and gives `bench_conversation` the engines.
"""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from voxd.engine.gpu.batch import Flight, Row
from voxd.engine.mini import memory
from voxd.engine.mini.build import build
from voxd.engine.mini.interface import (
    NONE_HIGHER,
    PAGE,
    PER_WINDOW,
    SPAN,
    MiniDevice,
    MiniOptions,
    SpecialTokens,
    audio,
    bits,
)
from voxd.engine.mini.model import MiniCheckpoint, page_bytes
from voxd.engine.realtime import build as realtime_device
from voxd.engine.realtime.interface import RealtimeDevice, RealtimeOptions
from voxd.engine.realtime.model import RealtimeCheckpoint
from voxd.lab.bench_conversation import Habit, alone, beside, beside_prefill, many, noise
from voxd.lab.bench_realtime import Ceilings, Say, ceilings
from voxd.lab.verify_mini import Table, rows

ENCODER = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "num_mel_bins": 128, "max_source_positions": 1500, "model_type": "voxtral_encoder",
}  # fmt: skip
DECODER = {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 30, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "vocab_size": 131072, "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e8}, "tie_word_embeddings": False, "model_type": "llama",
}  # fmt: skip
FRAMES = 1500  # of the encoder, per window
PROMPT = 384  # tokens: a window of audio, and what frames it
CONTEXT = 1000
LIVE = 32  # streams, and conversations beside them


@torch.no_grad()
def random_checkpoint(device: str, dtype: torch.dtype, config: Any = None) -> MiniCheckpoint:
    """The released model's sizes, if no others are given, without its weights."""
    from transformers import VoxtralConfig, VoxtralForConditionalGeneration, WhisperFeatureExtractor

    config = config or VoxtralConfig(audio_config=ENCODER, text_config=DECODER, audio_token_id=24)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = VoxtralForConditionalGeneration(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    positions = model.model.audio_tower.embed_positions
    positions.weight = torch.nn.Parameter(positions.weight.float(), requires_grad=False)
    eos, pieces = 2, (b" word",) * config.text_config.vocab_size
    model.lm_head.weight[eos] = 0  # never the likeliest: answers are as long as they may be
    special = SpecialTokens(
        1, eos, 3, 4, 17, 18, 25, 34, pieces, lambda text: [1000 + ord(each) % 256 for each in text]
    )
    return MiniCheckpoint(model, WhisperFeatureExtractor(feature_size=config.audio_config.num_mel_bins), special)


@dataclass(frozen=True, slots=True)
class Workload:
    """What steps have to move and to compute, at least.  Numbers of weights, and bytes of each."""

    encoder: int
    projector: int
    layers: int
    head: int
    row: int  # bytes of a position in all layers
    mixing: int  # of the encoder: products of two frames, in all layers
    item: int

    @classmethod
    def of(cls, model: Any) -> Workload:
        """Before the model is taken apart."""
        config, language = model.config, model.model.language_model
        text, heard, item = config.text_config, config.audio_config, model.lm_head.weight.dtype.itemsize
        table = model.model.audio_tower.embed_positions.weight.numel()
        return cls(
            encoder=_numbers(model.model.audio_tower) - table,
            projector=_numbers(model.model.multi_modal_projector),
            layers=_numbers(language) - language.embed_tokens.weight.numel(),
            head=model.lm_head.weight.numel(),
            row=2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * item,
            mixing=heard.hidden_size * heard.num_hidden_layers,
            item=item,
        )

    def encoder_ms(self, at: Ceilings) -> float:
        operations = 2 * FRAMES * self.encoder + 2 * PER_WINDOW * self.projector + 4 * FRAMES**2 * self.mixing
        return at.floor_ms((self.encoder + self.projector) * self.item, operations)

    def prefill_ms(self, at: Ceilings, tokens: int) -> float:
        return at.floor_ms((self.layers + self.head) * self.item, 2 * (tokens * self.layers + self.head))

    def decode_ms(self, at: Ceilings, batch: int, context: int) -> float:
        weights = self.layers + self.head
        return at.floor_ms(weights * self.item, 2 * batch * weights, batch * context * self.row)


def _numbers(module: Any) -> int:
    return sum(each.numel() for each in module.parameters())


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def timed(submit: Callable[[int], Flight], times: int) -> dict[str, float]:
    """Milliseconds from a step given to its ids read, and of the device alone; `submit` is told the how manieth."""
    whole, device = [], []
    for index in range(times + 3):
        began = time.perf_counter()
        flight = submit(index)
        flight.token_ids()
        whole.append(1000 * (time.perf_counter() - began))
        device.append(flight.took_us / 1000)
    return {"ms": statistics.median(whole[3:]), "device_ms": statistics.median(device[3:])}


def encoder_times(device: MiniDevice, times: int) -> dict[str, float]:
    place = device.places.take()
    row = Row((place, bits(NONE_HIGHER)), noise(SPAN))
    found = timed(lambda index: device.encoder.submit([row]), times)
    device.places.give(place)
    return found


def prefill_times(device: MiniDevice, tokens: int, times: int) -> dict[str, float]:
    """A prompt from position 0, most of it audio."""
    place, slot = device.places.take(), device.slots.take()
    pages = [device.pages.take() for _ in range(-(-tokens // PAGE))]
    heard = [audio(place, index) for index in range(min(PER_WINDOW, tokens - 4))]
    table = rows(slot, pages, 0, [1, 3, 25, *heard, *[1000] * (tokens - 3 - len(heard))])
    found = timed(lambda index: device.prefill.submit(table), times)
    device.places.give(place)
    device.slots.give(slot)
    _give(device, pages)
    return found


def decode_times(device: MiniDevice, batches: list[int], context: int, times: int) -> Iterator[dict[str, float]]:
    """The last of `context` positions, of so many sequences."""
    slots = [device.slots.take() for _ in range(max(batches))]
    pages = [[device.pages.take() for _ in range(-(-context // PAGE))] for _ in slots]
    each, last = device.prefill.largest, []
    for slot, own in zip(slots, pages, strict=True):
        for first in range(0, context, each):
            device.prefill.submit(rows(slot, own, first, [1000] * min(each, context - first))).token_ids()
        last.append(rows(slot, own, context - 1, [1000]))
    for batch in batches:
        table = np.concatenate(last[:batch])
        yield {"batch": batch, **timed(functools.partial(_decode, device, table), times)}
    for slot, own in zip(slots, pages, strict=True):
        device.slots.give(slot)
        _give(device, own)


def _decode(device: MiniDevice, table: Table, index: int) -> Flight:
    return device.decode.submit(table)


def _give(device: MiniDevice, pages: Iterable[int]) -> None:
    for page in pages:
        device.pages.give(page)


def steps(device: MiniDevice, work: Workload, at: Ceilings, say: Say, *, quick: bool) -> dict[str, Any]:
    """The time of each kind of step beside its floor."""
    times, context = (3, 128) if quick else (30, CONTEXT)
    found: dict[str, Any] = {
        "encoder": encoder_times(device, times) | {"floor_ms": work.encoder_ms(at)},
        "prefill": {"tokens": PROMPT, **prefill_times(device, PROMPT, times)}
        | {"floor_ms": work.prefill_ms(at, PROMPT)},
    }
    most = min(device.slots.count, device.decode.largest, device.pages.count * PAGE // context - 1)
    batches = [batch for batch in ((1, 4) if quick else (1, 16, 64, 256)) if batch <= most]
    found["decode"] = [
        {"context": context, **row, "floor_ms": work.decode_ms(at, int(row["batch"]), context)}
        for row in decode_times(device, batches, context, times)
    ]
    named = [("encoder", found["encoder"]), (f"prefill {PROMPT}", found["prefill"])]
    for name, row in [*named, *((f"decode {row['batch']}", row) for row in found["decode"])]:
        row |= {key: round(value, 2) for key, value in row.items()}
        say(f"{name}: {row['ms']} ms ({row['device_ms']} on the device), floor {row['floor_ms']}")
    return found


# ── transformers ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Watch:
    """A streamer for `generate()` that notes when tokens come; the prompt comes first."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.at.append(time.perf_counter())

    def end(self) -> None:
        """Ends without giving anything, since nothing was held back."""


@torch.inference_mode()
def generate_times(checkpoint: MiniCheckpoint, new: int) -> dict[str, float]:
    """transformers' own `generate()` of one conversation, everything resident, the features too."""
    model, special = checkpoint.model, checkpoint.special
    config = model.config
    token_ids = [
        special.bos,
        special.begin_inst,
        special.begin_audio,
        *[config.audio_token_id] * PER_WINDOW,
        special.end_inst,
    ]
    prompt = torch.tensor([token_ids], device=model.device)
    mel = torch.randn(1, config.audio_config.num_mel_bins, 2 * FRAMES, device=model.device).to(model.dtype)
    given = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), "input_features": mel}
    found = []
    for _ in range(3):
        watch, began = _Watch(), time.perf_counter()
        model.generate(**given, max_new_tokens=new, do_sample=False, eos_token_id=None, streamer=watch)
        found.append([1000 * (at - began) for at in watch.at[1:]])
    first = statistics.median(times[0] for times in found[1:])
    whole = statistics.median(times[-1] for times in found[1:])
    return {"first_token_ms": round(first, 2), "token_ms": round((whole - first) / (new - 1), 2), "tokens": new} | {
        "whole_ms": round(whole, 2)
    }


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.inference_mode()
def bench(
    checkpoint: MiniCheckpoint,
    live: RealtimeCheckpoint | None,
    options: MiniOptions,
    say: Say,
    *,
    compare: bool,
    quick: bool,
) -> dict[str, Any]:
    """Everything, as JSON.  `live`: Voxtral Realtime's, to be measured beside."""
    weight = checkpoint.model.lm_head.weight
    found: dict[str, Any] = {"torch": torch.__version__, "dtype": str(weight.dtype).removeprefix("torch.")}
    found["device"] = torch.cuda.get_device_name(weight.device) if weight.is_cuda else "cpu"
    at, work = ceilings(weight.device, weight.dtype), Workload.of(checkpoint.model)
    found["ceilings"] = {"copy_gb_s": round(at.bytes_s / 1e9), "tflops": round(at.flops / 1e12, 1)}
    say(f"copying {at.bytes_s / 1e9:.0f} GB/s, multiplying {at.flops / 1e12:.1f} TFLOP/s")
    habit = Habit(6, 15, 8) if quick else Habit()
    if compare:
        found["transformers"] = generate_times(checkpoint, habit.answer)
        say(f"transformers' generate(): {found['transformers']}")
    device, streams = _build(checkpoint, live, options, found, quick=quick)
    found["steps"] = steps(device, work, at, say, quick=quick)
    found["alone"] = alone(device, habit, 3 if quick else 20)
    say(f"alone: {found['alone']}")
    found["open_loop"] = []
    for count, seconds, ahead in ((2, 2.6, False),) if quick else ((64, 40.0, False), (64, 30.0, True)):
        found["open_loop"].append(many(device, count, seconds, habit, ahead=ahead))
        say(f"open loop: {found['open_loop'][-1]}")
    if streams is not None:
        several, seconds, prefilled = (2, 2.6, 2.4) if quick else (LIVE, 30.0, 9.0)
        found["beside"] = beside(device, streams, RealtimeOptions(), several, seconds, habit)
        say(f"beside live streams: {found['beside']}")
        found["beside_prefill"] = beside_prefill(device, streams, RealtimeOptions(), several, prefilled)
        say(f"live streams and prefill of 30 s: {found['beside_prefill']}")
    if weight.is_cuda:
        found["memory_gb"] = _memory(checkpoint, live, device, streams)
        say(f"memory, GB: {found['memory_gb']}")
    return found


def _memory(
    checkpoint: MiniCheckpoint, live: RealtimeCheckpoint | None, device: MiniDevice, streams: RealtimeDevice | None
) -> dict[str, float]:
    """What the plan of the memory counts, and what is taken beside it."""
    config, dtype = checkpoint.model.config, checkpoint.model.lm_head.weight.dtype
    planned = memory.demand_of(config, MiniOptions(), dtype).fixed + device.pages.count * page_bytes(config, dtype)
    if live is not None and streams is not None:
        demand = realtime_device.demand_of(live.model.config, RealtimeOptions(), dtype)
        planned += demand.fixed + streams.slots.count * demand.unit
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    found = {"total": total, "used": total - free, "planned": planned, "work_space": total - free - planned}
    return {name: round(size / 1e9, 2) for name, size in found.items()}


def _build(
    checkpoint: MiniCheckpoint,
    live: RealtimeCheckpoint | None,
    options: MiniOptions,
    found: dict[str, Any],
    *,
    quick: bool,
) -> tuple[MiniDevice, RealtimeDevice | None]:
    """Both, the live one with as many streams as it is asked for; the other has the rest of the memory."""
    began, streams = time.perf_counter(), None
    count = 2 if quick else LIVE
    if live is not None:
        streams = realtime_device.build(live, RealtimeOptions(), lambda text: None, eager=False, streams=count)
    found["live_build_s"] = round(time.perf_counter() - began, 1)
    gc.collect()
    if checkpoint.model.lm_head.weight.is_cuda:
        torch.cuda.empty_cache()  # else it would not be free for the other
    began = time.perf_counter()
    device = build(checkpoint, options, lambda text: None, eager=False)
    gc.collect()
    found["build_s"] = round(time.perf_counter() - began, 1)
    found["notes"] = [*device.notes, *(streams.notes if streams is not None else ())]
    return device, streams
