"""Builds Voxtral Mini on a device: how much room, which kernels, captured or eager.  Step 8.

It knows checkpoints, memory and options; not conversations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from voxd.engine.contract import Unusable
from voxd.engine.gpu.batch import Runner
from voxd.engine.gpu.checkpoints import free_memory, ops_of
from voxd.engine.gpu.graphs import BUCKETS, Captured, Eager, Step
from voxd.engine.mini.interface import CHUNK, ENCODER_HEAD, HEAD, PAGE, SPAN, MiniDevice, MiniOptions
from voxd.engine.mini.model import Capacity, MiniCheckpoint, MiniModel, page_bytes, place_bytes

PREFILLS = (16, 64, 128, 256, 384, 400, 480, CHUNK)  # tokens; a turn of a window of sound has some 380
PLACES = 16  # windows whose embeddings are on the device
USUAL = 2048  # positions of a conversation, five spoken turns, where their number is not given
MOST = 1024  # conversations, however much memory there is
LEAST = 1024  # positions: less is too little for a conversation
CPU_MEMORY, CPU_MOST = 2 << 30, 16  # bytes for pages, conversations: more would not be computed in time


@torch.inference_mode()
def build(
    checkpoint: MiniCheckpoint,
    options: MiniOptions,
    progress: Callable[[str], None],
    *,
    eager: bool,
    memory: int | None = None,
) -> MiniDevice:
    """Takes the checkpoint apart.  `memory`: bytes for pages; None: what the device has.  Raises Unusable."""
    weight, config = checkpoint.model.lm_head.weight, checkpoint.model.config
    room = room_for(config, options, weight.dtype, free_bytes(weight.device) if memory is None else memory)
    if not weight.is_cuda and options.max_conversations is None:
        room = fewer(room, CPU_MOST)
    progress(f"making room for {room.pages * PAGE} tokens")
    ops, kernels = ops_of(weight.device)
    sequences = 2 * room.slots  # each conversation may have a second request: a transcription, or an answer aside
    room = replace(room, slots=sequences)
    model = MiniModel(checkpoint.model, checkpoint.extractor, room, ops, draws=options.temperature > 0)
    eager = eager or not weight.is_cuda

    def runner(step: Step, width: int, buckets: tuple[int, ...], name: str) -> Runner:
        if eager:
            return Eager(step, width, max(buckets), model.device)
        return Captured(step, width, buckets, lambda text: progress(f"{name}: {text}"))

    decodes = tuple(bucket for bucket in BUCKETS if bucket <= room.slots)
    path = "step by step" if eager else f"captured, batches up to {max(decodes)}"
    place = torch.cuda.get_device_name(weight.device) if weight.is_cuda else "the CPU"
    kind = str(weight.dtype).removeprefix("torch.")
    return MiniDevice(
        encoder=runner(model.encode, ENCODER_HEAD + SPAN // 2, (1,), "encoder"),
        prefill=runner(model.prefill, HEAD, PREFILLS, "prefill"),
        decode=runner(model.decode, HEAD, decodes, "decode"),
        slots=model.slots,
        pages=model.pages,
        places=model.places,
        keep=model.keep,
        put=model.put,
        special=checkpoint.special,
        context=room.context,
        notes=(f"Voxtral Mini on {place}, {kind}, {path}{kernels}",),
    )


def free_bytes(device: torch.device) -> int:
    """Bytes that pages may take."""
    free = free_memory(device)
    return free if device.type == "cuda" else min(free, CPU_MEMORY)


def room_for(config: Any, options: MiniOptions, dtype: torch.dtype, memory: int) -> Capacity:
    """How much fits into so many bytes.  Raises Unusable."""
    size = page_bytes(config, dtype)
    pages = (memory - (PLACES + 1) * place_bytes(config, dtype)) // size - 1
    if pages * PAGE < LEAST:
        raise Unusable(
            f"no conversation fits into the device's memory beside the model: {LEAST} tokens take "
            f"{size * LEAST // PAGE >> 20} MiB, and {max(0, memory) >> 20} MiB are free"
        )
    slots = options.max_conversations or max(1, min(MOST, pages * PAGE // min(USUAL, options.max_context)))
    longest: int = config.text_config.max_position_embeddings
    return fewer(Capacity(slots, pages, PLACES, min(options.max_context, longest, pages * PAGE)), slots)


def fewer(room: Capacity, slots: int) -> Capacity:
    """The same with at most so many slots, and no more pages than they can reach."""
    slots = min(room.slots, slots)
    return Capacity(slots, min(room.pages, slots * -(-room.context // PAGE)), room.places, room.context)
