"""Loads Voxtral Realtime: on which device, with how many slots, on which path.  Part of step 8.

It knows checkpoints, memory and options; not streams.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from shared.audio import RATE
from voxd.engine.contract import Unusable
from voxd.engine.graphs import BUCKETS, Captured, Eager
from voxd.engine.kernels import Ops, Torch
from voxd.engine.realtime_model import DELAYS, HEAD, Checkpoint, RealtimeModel, Room, slot_bytes
from voxd.engine.realtime_port import Device, Options
from voxd.engine.realtime_runs import FRAME, SPAN, Form
from voxd.engine.realtime_streams import AHEAD, GRACE

WIDTH = HEAD + SPAN // 2  # int32 in a row of the table
MOST = 1024  # slots, however much memory there is


def load(options: Options, progress: Callable[[str], None], *, eager: bool) -> Device:
    """Raises Unusable."""
    return build(Checkpoint.load(options.model, *where(options.device), progress), options, progress, eager=eager)


@torch.inference_mode()
def build(checkpoint: Checkpoint, options: Options, progress: Callable[[str], None], *, eager: bool) -> Device:
    """Takes the checkpoint apart.  Raises Unusable."""
    script, config = checkpoint.script, checkpoint.model.config
    weight = checkpoint.model.lm_head.weight
    room = room_for(options.max_history_s, script.left, script.tail)
    size = slot_bytes(config, room, weight.dtype)
    count = min(options.max_streams or MOST, MOST, _memory(weight.device) // size - 1)
    if count < 1:
        raise Unusable(
            f"no stream fits into the device's memory beside the model: one of {options.max_history_s} s takes "
            f"{size >> 20} MiB; lower engine_options.voxtral-realtime.max_history_s"
        )
    progress(f"making room for {count} streams")
    ops, kernels = _ops(weight.device)
    model = RealtimeModel(checkpoint.model, checkpoint.extractor, script, room, count + 1, ops)
    buckets = [bucket for bucket in BUCKETS if bucket <= max(count, 1)]
    eager = eager or not weight.is_cuda
    runner = (
        Eager(model.step, WIDTH, max(buckets), model.device)
        if eager
        else Captured(model.step, WIDTH, buckets, progress)
    )
    delay = options.delay_ms // 80 if options.delay_ms else script.delay
    form = Form(script.bos, script.pad, script.left, script.tail, delay)
    path = "step by step" if eager else f"{len(buckets)} captured batch sizes up to {max(buckets)}"
    place = torch.cuda.get_device_name(weight.device) if weight.is_cuda else "the CPU"
    kind = str(weight.dtype).removeprefix("torch.")
    notes = (
        f"Voxtral Realtime on {place}, {kind}, {path}{kernels}",
        f"room for {count} streams of {options.max_history_s} s",
    )
    return Device(runner, model.slots, model.join, form, script.pieces, notes)


def _ops(device: torch.device) -> tuple[Ops, str]:
    """The kernels, and what the user is told of them."""
    if device.type != "cuda":
        return Torch(), ""
    from voxd.engine.triton_kernels import Triton  # comes with every PyTorch for CUDA

    return Triton(), ", Triton kernels"


def room_for(history_s: int, left: int, tail: int) -> Room:
    """A run may be as long as the history, until somebody pauses, and the delay and the tail of its end."""
    slack = DELAYS + tail + 3
    return Room(left + -(-(history_s * RATE + GRACE + AHEAD) // FRAME) + slack, slack)


def where(wanted: str) -> tuple[str, torch.dtype]:
    """The device, and the numbers that it is good at.  Raises Unusable."""
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise Unusable("there is no CUDA device that PyTorch can use; choose the device cpu")
    return ("cuda", torch.bfloat16) if there and wanted != "cpu" else ("cpu", torch.float32)


def _memory(device: torch.device) -> int:
    """Bytes for slots: what is free, but for what captures and libraries take."""
    if device.type == "cuda":
        return max(0, torch.cuda.mem_get_info(device)[0] - (4 << 30))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
