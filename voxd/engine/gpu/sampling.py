"""Chooses a token: the likeliest, or one drawn at random.  Step 8.

In transformers' order: temperature, the likeliest TOP_K, of those the fewest that make up `top_p`.  What is drawn is a
function of a row's own logits, seed and position, so it is the same whatever else is in the batch.

It knows logits; not sequences or what a token means.
"""

from __future__ import annotations

import torch

MIX = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # splitmix64's constants, signed


def keep(logits: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, top_k: int) -> tuple[torch.Tensor, ...]:
    """logits [B, V], temperature and top_p float32 [B] -> (probabilities, ids) [B, top_k], the likeliest first; what is
    not kept has probability 0.  Of equals at the end of the `top_k` some are left out (transformers keeps all)."""
    scores, token_ids = logits.float().topk(min(top_k, logits.shape[1]), sorted=True)
    scores = scores / temperature[:, None]
    rest = scores.flip(-1).softmax(-1).cumsum(-1).flip(-1)  # of each and all that are less likely
    dropped = rest <= 1 - top_p[:, None]
    dropped[:, 0] = False
    return scores.masked_fill(dropped, -torch.inf).softmax(-1), token_ids


def uniform(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """int64 [B] each -> float32 [B] in [0, 1): splitmix64 of both, its upper 24 bits."""
    mixed = position * MIX[0] + seed * MIX[1]
    mixed = (mixed ^ _right(mixed, 30)) * MIX[1]
    mixed = (mixed ^ _right(mixed, 27)) * MIX[2]
    return _right(mixed ^ _right(mixed, 31), 40).float() / (1 << 24)


def choose(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_p: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    top_k: int,
) -> torch.Tensor:
    """logits [B, V] -> ids, int64 [B]; a row with temperature 0 takes the likeliest."""
    drawn = temperature > 0
    shares, token_ids = keep(logits, torch.where(drawn, temperature, 1.0), top_p, top_k)
    reached = shares.cumsum(-1)
    aim = uniform(seed, position) * reached[:, -1]
    which = (reached <= aim[:, None]).sum(-1, keepdim=True).clamp(max=token_ids.shape[1] - 1)
    return torch.where(drawn, token_ids.gather(1, which)[:, 0], logits.argmax(-1))


def _right(value: torch.Tensor, by: int) -> torch.Tensor:
    """A shift of 64 bits that brings zeros."""
    return (value >> by) & ((1 << (64 - by)) - 1)
