"""Builds Voxtral Realtime on a device: how many slots, which kernels, captured or eager.  Step 8.

It knows checkpoints, memory and options; not streams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from shared.audio import RATE
from voxd.engine.contract import Demand, Unusable
from voxd.engine.gpu.checkpoints import config_of, free_memory, ops_of, where as where
from voxd.engine.gpu.graphs import BUCKETS, Captured, Eager
from voxd.engine.realtime.interface import RealtimeDevice, RealtimeOptions
from voxd.engine.realtime.model import (
    DELAYS,
    HEAD,
    HistoryLimit,
    RealtimeCheckpoint,
    RealtimeModel,
    fixed_bytes,
    slot_bytes,
)
from voxd.engine.realtime.runs import FRAME, SPAN, Form
from voxd.engine.realtime.streams import AHEAD, GRACE

WIDTH = HEAD + SPAN // 2  # int32 in a row of the table
MOST = 1024  # slots, however much memory there is
LEFT, TAIL = 32, 10  # frames, of the released model: the demand is computed before its tokenizer is read


def demand(options: RealtimeOptions) -> Demand | None:
    """The memory that the engine wants, for `Engine.demand`.  Raises Unusable."""
    device, dtype = where(options.device)
    config = config_of(options.model, "voxtral_realtime") if device == "cuda" else None
    return None if config is None else demand_of(config, options, dtype)


def demand_of(config: Any, options: RealtimeOptions, dtype: torch.dtype) -> Demand:
    """The same for a loaded configuration, in units of streams as long as the options allow."""
    size = slot_bytes(config, room_for(options.max_history_s, LEFT, TAIL), dtype)
    return Demand(
        fixed=fixed_bytes(config, LEFT - 1, dtype) + size,  # slot 0 is for padding
        unit=size,
        per=f"stream of {options.max_history_s} s",
        most=min(options.max_streams or MOST, MOST),
        lower="max_history_s",
    )


def load(
    options: RealtimeOptions, progress: Callable[[str], None], *, eager: bool, streams: int | None = None
) -> RealtimeDevice:
    """Raises Unusable."""
    checkpoint = RealtimeCheckpoint.load(options.model, *where(options.device), progress)
    return build(checkpoint, options, progress, eager=eager, streams=streams)


@torch.inference_mode()
def build(
    checkpoint: RealtimeCheckpoint,
    options: RealtimeOptions,
    progress: Callable[[str], None],
    *,
    eager: bool,
    streams: int | None = None,
) -> RealtimeDevice:
    """Takes the checkpoint apart.  `streams`: as many slots; None: what is free.  Raises Unusable."""
    special, config = checkpoint.special, checkpoint.model.config
    weight = checkpoint.model.lm_head.weight
    room = room_for(options.max_history_s, special.left, special.tail)
    size = slot_bytes(config, room, weight.dtype)
    most = min(options.max_streams or MOST, MOST)
    count = min(most, free_memory(weight.device) // size - 1) if streams is None else streams
    if count < 1:
        raise Unusable(
            f"no stream fits into the device's memory beside the model: one of {options.max_history_s} s takes "
            f"{size >> 20} MiB; lower engine_options.voxtral-realtime.max_history_s"
        )
    progress(f"making room for {count} streams")
    ops, kernels = ops_of(weight.device)
    model = RealtimeModel(checkpoint.model, checkpoint.extractor, special, room, count + 1, ops)
    buckets = [bucket for bucket in BUCKETS if bucket <= max(count, 1)]
    eager = eager or not weight.is_cuda
    runner = (
        Eager(model.step, WIDTH, max(buckets), model.device)
        if eager
        else Captured(model.step, WIDTH, buckets, progress)
    )
    delay = options.delay_ms // 80 if options.delay_ms else special.delay
    form = Form(special.bos, special.pad, special.left, special.tail, delay)
    path = "step by step" if eager else f"{len(buckets)} captured batch sizes up to {max(buckets)}"
    place = torch.cuda.get_device_name(weight.device) if weight.is_cuda else "the CPU"
    kind = str(weight.dtype).removeprefix("torch.")
    notes = (
        f"Voxtral Realtime on {place}, {kind}, {path}{kernels}",
        f"room for {count} streams of {options.max_history_s} s",
    )
    return RealtimeDevice(runner, model.slots, model.join, form, special.pieces, notes)


def room_for(history_s: int, left: int, tail: int) -> HistoryLimit:
    """A run may be as long as the history, until somebody pauses, and the delay and the tail of its end."""
    slack = DELAYS + tail + 3
    return HistoryLimit(left + -(-(history_s * RATE + GRACE + AHEAD) // FRAME) + slack, slack)
