"""How much of a device's memory Voxtral Mini wants, and how it is loaded with what it was granted.  Part of step 8.

Memory is granted for so many times 2048 tokens of conversation; pages are shared, so a long conversation takes what
several short ones would.  It knows sizes; not conversations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from voxd.engine.contract import Demand
from voxd.engine.gpu.checkpoints import config_of, where
from voxd.engine.mini.build import PLACES, USUAL, build
from voxd.engine.mini.interface import PAGE, Device, Options
from voxd.engine.mini.model import Checkpoint, fixed_bytes, page_bytes, place_bytes


def demand(options: Options) -> Demand | None:
    """As `Engine.demand`.  Raises Unusable."""
    device, dtype = where(options.device)
    config = config_of(options.model, "voxtral") if device == "cuda" else None
    return None if config is None else demand_of(config, options, dtype)


def demand_of(config: Any, options: Options, dtype: torch.dtype) -> Demand:
    """At least one conversation as long as the options allow."""
    longest = -(-min(options.max_context, config.text_config.max_position_embeddings) // USUAL)
    return Demand(
        fixed=fixed_bytes(config, dtype) + _beside(config, dtype),
        unit=_pages(1) * page_bytes(config, dtype),
        per=f"conversation of {USUAL} tokens",
        least=longest,
        most=options.max_conversations and options.max_conversations * longest,
        lower="max_context",
    )


def memory_of(config: Any, units: int, dtype: torch.dtype) -> int:
    """What `build` is given for so many units."""
    return _pages(units) * page_bytes(config, dtype) + _beside(config, dtype)


def load(options: Options, progress: Callable[[str], None], *, eager: bool, units: int | None = None) -> Device:
    """`units`: as were granted; None: what is free.  Raises Unusable."""
    device, dtype = where(options.device)
    checkpoint = Checkpoint.load(options.model, device, dtype, progress)
    memory = None if units is None else memory_of(checkpoint.model.config, units, dtype)
    return build(checkpoint, options, progress, eager=eager, memory=memory)


def _pages(units: int) -> int:
    return units * USUAL // PAGE


def _beside(config: Any, dtype: torch.dtype) -> int:
    """The places, and what is nobody's."""
    return (PLACES + 1) * place_bytes(config, dtype) + page_bytes(config, dtype)
