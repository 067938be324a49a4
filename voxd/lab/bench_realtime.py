"""`voxd bench-engine`: the engine's speed here beside the least that the machine allows.  Not in the packet's path.

First the two ceilings are measured, copying and multiplying; a floor is bytes over the one or operations over the
other, whichever is more.  Random weights are as fast as real ones.  It knows the engine from outside: batches in, times
out; p50 throughout where nothing else is said.
"""

from __future__ import annotations

import gc
import heapq
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared.audio import RATE, VAD_FRAME
from shared.latency import percentile
from voxd.engine.gpu.batch import Flight, Row
from voxd.engine.realtime.build import LEFT, TAIL, build, room_for
from voxd.engine.realtime.engine import VoxtralRealtime
from voxd.engine.realtime.interface import RealtimeDevice, RealtimeOptions
from voxd.engine.realtime.model import RealtimeCheckpoint, StreamTokens, slot_bytes
from voxd.engine.realtime.runs import FRAME, SPAN, Run
from voxd.engine.realtime.streams import Stream
from voxd.messages import Close, Feed, Flush, Heard, Onset, Open, Rollback

ROPE = {"rope_type": "default", "rope_theta": 1e6}
ENCODER = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 32, "head_dim": 64,
    "num_mel_bins": 128, "sliding_window": 750, "rms_norm_eps": 1e-5, "vocab_size": 131072, "rope_parameters": ROPE,
    "model_type": "voxtral_realtime_encoder",
}  # fmt: skip
DECODER = {
    "hidden_size": 3072, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 8, "sliding_window": 8192, "rms_norm_eps": 1e-5, "vocab_size": 131072,
    "rope_parameters": ROPE, "max_position_embeddings": 131072, "tie_word_embeddings": True,
    "model_type": "voxtral_realtime_text",
}  # fmt: skip
HISTORY = 1500  # frames of the past, 2 min
FRAME_S = FRAME / RATE
FRAMES_A_MINUTE = 750
WARM_S, ENDS_S = 2, 5  # of an open loop are left out at its beginning; are looked at by themselves at both ends
FLUSH_EVERY_S, FLUSH_FROM_S = 0.4, 1.0  # when people seem to have ended
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this machine can do at best."""

    bytes_s: float  # copied: read and written
    flops: float  # of large bf16 (CPU: fp32) products

    def floor_ms(self, read: float, operations: float, always: float = 0.0) -> float:
        """`read` bytes once while the operations are done, and `always` bytes more that nothing hides."""
        return 1000 * (max(read / self.bytes_s, operations / self.flops) + always / self.bytes_s)


def clock_ms(work: Callable[[], object], times: int = 10) -> float:
    """Median of the device's time for one call."""
    cuda: Any = torch.cuda
    spent = []
    for _ in range(times + 2):
        if cuda.is_available():
            cuda.synchronize()
        began = time.perf_counter()
        work()
        if cuda.is_available():
            cuda.synchronize()
        spent.append(time.perf_counter() - began)
    return 1000 * statistics.median(spent[2:])


def ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    size, side = (2 << 30, 8192) if device.type == "cuda" else (64 << 20, 1024)
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copied = clock_ms(lambda: target.copy_(source))
    left, right = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    multiplied = clock_ms(lambda: left @ right)
    return Ceilings(2 * size / copied * 1000, 2 * side**3 / multiplied * 1000)


@torch.no_grad()
def random_checkpoint(device: str, dtype: torch.dtype, config: Any = None) -> RealtimeCheckpoint:
    """The released model's sizes, if no others are given, without its weights."""
    from transformers import (
        VoxtralRealtimeConfig,
        VoxtralRealtimeFeatureExtractor,
        VoxtralRealtimeForConditionalGeneration,
    )

    config = config or VoxtralRealtimeConfig(audio_config=ENCODER, text_config=DECODER, tie_word_embeddings=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = VoxtralRealtimeForConditionalGeneration(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    pieces = (b" word",) * config.text_config.vocab_size  # no blanks: the engine would begin anew
    special = StreamTokens(bos=1, pad=32, left=LEFT, tail=TAIL, delay=6, pieces=pieces)
    return RealtimeCheckpoint(model, VoxtralRealtimeFeatureExtractor(feature_size=128), special)


@dataclass(frozen=True, slots=True)
class Workload:
    """What a step has to move and to compute, at least."""

    weights: int  # bytes
    encoder: int  # parameters that a frame passes 4 times
    decoder: int  # and once
    rows: tuple[int, int]  # bytes of one row, of encoder and decoder
    window: int  # rows of the encoder that a frame reads

    @classmethod
    def of(cls, model: Any) -> Workload:
        """Counts the weights, before the model is taken apart."""
        config, item = model.config, model.lm_head.weight.dtype.itemsize
        tower = sum(each.numel() for each in model.model.audio_tower.parameters())
        rest = sum(each.numel() for each in model.model.multi_modal_projector.parameters())
        language = sum(each.numel() for each in model.model.language_model.parameters())
        parts = config.audio_config, config.text_config
        rows = [2 * p.num_hidden_layers * p.num_key_value_heads * p.head_dim * item for p in parts]
        both = (rows[0], rows[1])
        return cls((tower + rest + language) * item, tower, rest + language, both, parts[0].sliding_window + 3)

    def floor_ms(self, at: Ceilings, batch: int, history: int) -> float:
        operations = 2.0 * batch * (4 * self.encoder + self.decoder)
        past = batch * (min(self.window, 4 * history) * self.rows[0] + history * self.rows[1])
        return at.floor_ms(self.weights, operations, past)


# ── one step ────────────────────────────────────────────────────────────────────────────────────────────────────────


def step_times(
    device: RealtimeDevice, batches: Iterable[int], history: int, times: int = 30
) -> Iterator[dict[str, float]]:
    """Milliseconds from the batch given to its tokens read, and of the device alone."""
    rng = np.random.default_rng(0)
    body = (1000 * rng.standard_normal(SPAN)).astype("<i2").tobytes()
    for batch in batches:
        slots = [device.slots.take() for _ in range(batch)]
        whole, alone = [], []
        for i in range(times + 3):
            rows = [Row((slot, history - times + i, 1000, device.form.delay), body) for slot in slots]
            began = time.perf_counter()
            flight = device.runner.submit(rows)
            flight.token_ids()
            whole.append(1000 * (time.perf_counter() - began))
            alone.append(flight.took_us / 1000)
        for slot in slots:
            device.slots.give(slot)
        yield {"batch": batch, "ms": statistics.median(whole[3:]), "device_ms": statistics.median(alone[3:])}


# ── open loop ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Measured(VoxtralRealtime):
    """An engine that notes when the token of each frame was read."""

    def __init__(self, device: RealtimeDevice, options: RealtimeOptions) -> None:
        given = {"max_history_s": options.max_history_s}
        super().__init__(given, lambda: None, lambda *_: device)
        self.load(lambda text: None)
        self.read: list[tuple[int, int, float, int]] = []  # stream, sample it needed, when, batch
        self._needed: deque[list[int]] = deque()  # of the steps on their way

    def _submit(self, now_us: int) -> tuple[Flight, list[tuple[Stream, Run]]] | None:
        found = super()._submit(now_us)
        if found is not None:
            self._needed.append([run.reach(run.n - 1) for _, run in found[1]])
        return found

    def _read(self, flight: Flight, batch: list[tuple[Stream, Run]]) -> None:
        super()._read(flight, batch)
        now = time.perf_counter()
        for (stream, _), at in zip(batch, self._needed.popleft(), strict=True):
            self.read.append((stream.number, at, now, len(batch)))


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50, p95 and p99, rounded; nothing of no values."""
    found = list(values)
    return {f"p{q}": round(percentile(found, q), 2) for q in (50, 95, 99)} if found else {}


class Crowd:
    """People who speak in real time and never stop, in packets of 80 ms; their histories are spread evenly, as they are
    after a while.  Nobody is waited for: a slow step makes packets late, never rare."""

    def __init__(
        self, device: RealtimeDevice, options: RealtimeOptions, count: int, seconds: float, *, together: bool
    ) -> None:
        rng = random.Random(0)
        self.engine = Measured(device, options)
        self._seconds = seconds
        self._pcm = (1000 * np.random.default_rng(0).standard_normal(FRAME)).astype("<i2").tobytes()
        most = options.max_history_s * RATE // FRAME
        self.phases = [0.0 if together else rng.random() * FRAME_S for _ in range(count)]
        for number in range(count):
            self.engine.receive(Open(number, ("transcribe",)))
            self.engine.receive(Onset(number, 1, 0))
            self._age(self.run(number), rng.randrange(most))
        self._due = [(phase, number, 0) for number, phase in enumerate(self.phases)]
        heapq.heapify(self._due)
        self.fed = [0] * count
        self.began = time.perf_counter()

    def run(self, number: int) -> Run:
        (utterance,) = self.engine._streams[number].utterances.values()
        return utterance.run

    def _age(self, run: Run, frames: int) -> None:
        """Makes the run as old as if it had begun so many frames ago."""
        run.start -= frames * FRAME
        run.n += frames
        run.out = [1000] * max(0, run.n - run.form.first)

    def turn(self) -> bool:
        """Feeds what is due, and steps the engine once.  False when all is over."""
        now = time.perf_counter() - self.began
        while self._due and self._due[0][0] <= now:
            at, number, packet = heapq.heappop(self._due)
            self._feed(number, packet)
            if at + FRAME_S < self._seconds:
                heapq.heappush(self._due, (at + FRAME_S, number, packet + 1))
        list(self.engine.step(int(now * 1e6)))
        return bool(self._due) or self.engine.deadline_us is not None

    def _feed(self, number: int, packet: int) -> None:
        start = packet * FRAME
        self.fed[number] = start + FRAME
        self.engine.receive(Feed(number, start, self._pcm))
        first, last = start // VAD_FRAME, (start + FRAME) // VAD_FRAME
        self.engine.receive(Heard(number, first * VAD_FRAME, (1.0,) * (last - first)))

    def leave(self) -> None:
        for number in range(len(self.phases)):
            self.engine.receive(Close(number))


def open_loop(
    device: RealtimeDevice, options: RealtimeOptions, count: int, seconds: float, *, together: bool
) -> dict[str, object]:
    """How long it takes from a frame being there to its token being read."""
    crowd = Crowd(device, options, count, seconds, together=together)
    while crowd.turn():
        pass
    crowd.leave()
    return {"streams": count, "seconds": seconds, "together": together, **_latencies(crowd)}


def frame_times(crowd: Crowd) -> list[tuple[int, float, float]]:
    """Of every frame: the last sample it needs, when its token was read, and how many ms after it was there.

    It is there with the packet that brings that sample."""
    return [
        (at, read, 1000 * (read - crowd.began - crowd.phases[number] - FRAME_S * ((at - 1) // FRAME)))
        for number, at, read, _ in crowd.engine.read
        if at > 0
    ]


def _latencies(crowd: Crowd) -> dict[str, object]:
    times = [(at, ms) for at, _, ms in frame_times(crowd)]
    last = max(at for at, _ in times)
    ends = [ms for at, ms in times if at > last - ENDS_S * RATE]
    starts = [ms for at, ms in times if WARM_S * RATE < at < (WARM_S + ENDS_S) * RATE]
    return {
        "frames": len(times),
        "latency_ms": percentiles(ms for at, ms in times if at > WARM_S * RATE),
        "first_5_s": percentiles(starts or ends),
        "last_5_s": percentiles(ends),
        "batch": percentiles(batch for *_, batch in crowd.engine.read),
    }


# ── flush ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def flush_times(device: RealtimeDevice, options: RealtimeOptions, count: int, times: int) -> dict[str, object]:
    """From the tentative end of one of `count` people, while the others go on, to the id of the last word, and to the
    last id at all.  Then it was no end, and that one speaks on."""
    crowd = Crowd(device, options, count, FLUSH_FROM_S + FLUSH_EVERY_S * (times + 1), together=False)
    words, all_of_it = [], []
    for attempt in range(times):
        while time.perf_counter() - crowd.began < FLUSH_FROM_S + FLUSH_EVERY_S * attempt:
            crowd.turn()
        run, end = crowd.run(0), crowd.fed[0]
        last = -(-(end - run.start) // FRAME)
        began = time.perf_counter()
        crowd.engine.receive(Flush(0, 1, end))
        while len(run.out) < last:
            crowd.turn()
        words.append(1000 * (time.perf_counter() - began))
        while not run.finished:
            crowd.turn()
        all_of_it.append(1000 * (time.perf_counter() - began))
        crowd.engine.receive(Rollback(0, 1))
    crowd.leave()
    return {"streams": count, "last_word_ms": percentiles(words), "all_ms": percentiles(all_of_it)}


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────────


def generate_ms(checkpoint: RealtimeCheckpoint, frames: int = 60) -> float:
    """transformers' own `generate()`: milliseconds per frame of one stream, everything resident."""
    model, special = checkpoint.model, checkpoint.special
    prompt = special.left + special.delay + 1
    silence = np.zeros((prompt + frames) * FRAME, np.float32)
    mel = checkpoint.extractor(silence, return_tensors="pt", sampling_rate=RATE).input_features
    token_ids = torch.tensor([[special.bos] + [special.pad] * (prompt - 1)], device=model.device)
    given = {
        "input_ids": token_ids,
        "input_features": mel.to(model.device, model.dtype),
        "num_delay_tokens": special.delay,
    }
    spent = []
    for new in (2, 2, frames):  # the first warms up
        began = time.perf_counter()
        model.generate(**given, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)
    return 1000 * (spent[2] - spent[1]) / (frames - 2)


def capacity(work: Workload, config: Any, dtype: torch.dtype, at: Ceilings, free: int) -> list[dict[str, float]]:
    """Streams by memory, and the floor of a step of as many, by minutes of history."""
    rows = []
    for minutes in (2, 5, 11):
        size = slot_bytes(config, room_for(60 * minutes, LEFT, TAIL), dtype)
        count = free // size
        floor = work.floor_ms(at, count, min(minutes * FRAMES_A_MINUTE, config.text_config.sliding_window))
        rows.append({"minutes": minutes, "slot_mb": round(size / 1e6), "streams": count, "floor_ms": round(floor, 1)})
    return rows


@torch.inference_mode()
def bench(
    checkpoint: RealtimeCheckpoint, options: RealtimeOptions, say: Say, *, compare: bool, quick: bool
) -> dict[str, Any]:
    """Runs all measurements; returns what becomes JSON."""
    weight = checkpoint.model.lm_head.weight
    place, dtype = weight.device, weight.dtype
    found: dict[str, Any] = {"torch": torch.__version__, "dtype": str(dtype).removeprefix("torch.")}
    found["device"] = torch.cuda.get_device_name(place) if weight.is_cuda else "cpu"
    at = ceilings(place, dtype)
    found["ceilings"] = {"copy_gb_s": round(at.bytes_s / 1e9), "tflops": round(at.flops / 1e12, 1)}
    say(f"copying {at.bytes_s / 1e9:.0f} GB/s, multiplying {at.flops / 1e12:.1f} TFLOP/s")
    work, config = Workload.of(checkpoint.model), checkpoint.model.config
    if compare:
        found["transformers_ms"] = round(generate_ms(checkpoint), 2)
        say(f"transformers' generate(): {found['transformers_ms']} ms per frame of one stream")
    began = time.perf_counter()
    device = build(checkpoint, options, lambda text: None, eager=False)
    gc.collect()
    found["build_s"] = round(time.perf_counter() - began, 1)
    found["notes"] = device.notes
    found["slots"] = device.slots.count
    most = min(device.slots.count, device.runner.largest)
    batches = [batch for batch in ((1, 4) if quick else (1, 4, 16, 64, 128, 256)) if batch <= most]
    history = min(HISTORY, options.max_history_s * RATE // FRAME)
    found["steps"] = []
    for row in step_times(device, batches, history):
        batch = int(row["batch"])
        row |= {"floor_ms": work.floor_ms(at, batch, history)}
        found["steps"].append({name: round(value, 2) for name, value in row.items()})
        say(f"step of {batch}: {row['ms']:.2f} ms ({row['device_ms']:.2f} on the device), floor {row['floor_ms']:.2f}")
    found["flush"] = [flush_times(device, options, count, 4 if quick else 20) for count in (1, 64) if count <= most]
    found["open_loop"] = []
    for count, seconds, together in ((2, 3, False),) if quick else ((256, 60, False), (256, 15, True)):
        heard = open_loop(device, options, min(count, device.slots.count), seconds, together=together)
        found["open_loop"].append(heard)
        say(f"open loop: {heard}")
    free = device.slots.count * slot_bytes(config, room_for(options.max_history_s, LEFT, TAIL), dtype)
    found["capacity"] = capacity(work, config, dtype, at, free)
    return found
