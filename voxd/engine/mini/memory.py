"""How much device memory Voxtral Mini wants, and how it is loaded with what it was granted.  Step 8.

Memory is granted in units of 2048 tokens of conversation; pages are shared, so a long conversation takes as much as
several short ones.  It knows sizes; not conversations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from voxd.engine.contract import Demand
from voxd.engine.gpu.checkpoints import config_of, where
from voxd.engine.mini.build import PLACES, USUAL, build
from voxd.engine.mini.interface import PAGE, MiniDevice, MiniOptions
from voxd.engine.mini.model import MiniCheckpoint, fixed_bytes, page_bytes, place_bytes


def demand(options: MiniOptions) -> Demand | None:
    """The memory that the engine wants, for `Engine.demand`.  Raises Unusable."""
    device, dtype = where(options.device)
    config = config_of(options.model, "voxtral") if device == "cuda" else None
    return None if config is None else demand_of(config, options, dtype)


def demand_of(config: Any, options: MiniOptions, dtype: torch.dtype) -> Demand:
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


def bytes_for(config: Any, units: int, dtype: torch.dtype) -> int:
    """Bytes that `build` may use when so many units were granted."""
    return _pages(units) * page_bytes(config, dtype) + _beside(config, dtype)


def load(options: MiniOptions, progress: Callable[[str], None], *, eager: bool, units: int | None = None) -> MiniDevice:
    """Loads the checkpoint.  `units`: those that were granted; None: all free memory.  Raises Unusable."""
    device, dtype = where(options.device)
    checkpoint = MiniCheckpoint.load(options.model, device, dtype, progress)
    memory = None if units is None else bytes_for(checkpoint.model.config, units, dtype)
    return build(checkpoint, options, progress, eager=eager, memory=memory)


def _pages(units: int) -> int:
    return units * USUAL // PAGE


def _beside(config: Any, dtype: torch.dtype) -> int:
    """Bytes for the places of embeddings, and for the page that padding writes to."""
    return (PLACES + 1) * place_bytes(config, dtype) + page_bytes(config, dtype)
