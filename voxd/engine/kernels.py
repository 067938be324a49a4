"""The pieces of a layer in plain PyTorch.  Part of step 8.

This is the definition: it runs on the CPU and is what `triton_kernels` is tested against.  Rounding follows
transformers, operation by operation, so that fp32 results equal those of its own model.

Shapes: N tokens = B sequences x T new ones each; H query heads, K key heads, D the head's dimension.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F


class Where(NamedTuple):
    """Where the T new tokens of each sequence stand: int64 [B] each."""

    slot: torch.Tensor
    first: torch.Tensor  # position of the first new token: as many are in the ring before it


class Shape(NamedTuple):
    """Of one attention: constants of a stack."""

    heads: int
    kv_heads: int
    dim: int
    new: int  # T: new tokens per sequence and step
    capacity: int  # of a ring
    window: int  # keys that a query sees, itself included


class Place(NamedTuple):
    """What all layers of a stack need to know of a step."""

    where: Where
    rows: torch.Tensor  # of the new tokens in the rings, int64 [N]
    cos: torch.Tensor  # [N, D / 2]
    sin: torch.Tensor

    @classmethod
    def of(cls, where: Where, shape: Shape, inv_freq: torch.Tensor, dtype: torch.dtype) -> Place:
        position = (where.first[:, None] + torch.arange(shape.new, device=where.first.device)).flatten()
        rows = where.slot.repeat_interleave(shape.new) * shape.capacity + position % shape.capacity
        angle = position[:, None].float() * inv_freq
        return cls(where, rows, angle.cos().to(dtype), angle.sin().to(dtype))


class Scale(NamedTuple):
    """Row `of[b]` of `table` [rows, width] is what the normed token of sequence b is multiplied with."""

    table: torch.Tensor
    of: torch.Tensor


class Ops(Protocol):
    """What a stack needs of its device."""

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, scale: Scale | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x [N, width] plus delta, and the RMS norm of that: the residual stream and what a block reads."""

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[N, in] times [out, in] -> [N, out]"""

    def gated(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """[N, in] times [2 * width, in] -> [N, width]: silu of the one half times the other."""

    def rope_store(
        self, qkv: torch.Tensor, place: Place, k: torch.Tensor, v: torch.Tensor, shape: Shape
    ) -> torch.Tensor:
        """qkv [N, (H + 2K) * D]: rotates queries and keys, puts keys and values into the rings `k`, `v` [rows, K, D];
        returns the queries [N, H, D]."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, where: Where, shape: Shape) -> torch.Tensor:
        """q [N, H, D] over the rings -> [N, H * D]; each query sees the `window` positions up to its own."""


class Torch:
    """The definition."""

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, scale: Scale | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if delta is not None:
            x = x + delta
        wide = x.float()
        normed = weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)
        if scale is not None:
            normed = normed * scale.table[scale.of]
        return x, normed

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return F.linear(x, weight, bias)

    def gated(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        gate, up = F.linear(x, weight).chunk(2, -1)
        return F.silu(gate) * up

    def rope_store(
        self, qkv: torch.Tensor, place: Place, k: torch.Tensor, v: torch.Tensor, shape: Shape
    ) -> torch.Tensor:
        heads = [shape.heads, shape.kv_heads, shape.kv_heads]
        queries, keys, values = qkv.view(len(qkv), sum(heads), shape.dim).split_with_sizes(heads, 1)
        cos, sin = (torch.cat([each, each], -1)[:, None] for each in (place.cos, place.sin))
        k.index_copy_(0, place.rows, _rotate(keys, cos, sin))
        v.index_copy_(0, place.rows, values)
        return _rotate(queries, cos, sin)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, where: Where, shape: Shape) -> torch.Tensor:
        batch, new = len(where.slot), shape.new
        query = where.first[:, None] + torch.arange(new, device=q.device)  # positions [B, T]
        span = min(int(query.max()) + 1, shape.window + new - 1)
        key = where.first[:, None] + new - span + torch.arange(span, device=q.device)  # positions [B, S]
        rows = where.slot[:, None] * shape.capacity + key % shape.capacity
        seen = (key >= 0)[:, None] & (key[:, None] <= query[..., None])
        seen &= key[:, None] > query[..., None] - shape.window
        out = F.scaled_dot_product_attention(
            q.view(batch, new, shape.heads, shape.dim).transpose(1, 2),
            k[rows].transpose(1, 2),
            v[rows].transpose(1, 2),
            attn_mask=seen[:, None],
            enable_gqa=True,
        )
        return out.transpose(1, 2).reshape(len(q), shape.heads * shape.dim)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
