"""The operations of a transformer layer in plain PyTorch.  Step 8.

This is the definition: it runs on the CPU and is what `triton_ops` is tested against.  Rounding follows
transformers, operation by operation, so that fp32 results equal those of its own model.

Shapes: N tokens = B sequences x T new ones each; H query heads, K key heads, D the head's dimension.

The keys and values of a sequence lie in rows: in a ring of its own, where position p is row p modulo the ring's length,
or in pages that all sequences share, where a table says which page a position is in.  Memory is then for what is said,
not for the longest that could be.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F


class Shape(NamedTuple):
    """The shape of one attention: constants of a stack."""

    heads: int
    kv_heads: int
    dim: int
    capacity: int  # rows of a ring, or of a page
    window: int  # keys that a query sees, itself included; with pages at least the longest sequence


class Paging(NamedTuple):
    """Where the rows of sequences without rings are."""

    table: torch.Tensor  # int32 [slots, pages]: position p of a slot is in page `table[slot, p // capacity]`
    rows: torch.Tensor  # int64 [N]: of the new tokens
    end: torch.Tensor | None = None  # int64 [B]: the position behind the last new token that is one; None: all are


class Where(NamedTuple):
    """Where the T new tokens of each sequence stand: int64 [B] each."""

    slot: torch.Tensor
    first: torch.Tensor  # position of the first new token: as many are there before it
    paging: Paging | None = None  # None: rings

    def rows(self, position: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Positions [B, n] -> their rows, int64 [B, n]."""
        base = self.slot[:, None]
        if self.paging is not None:
            base = self.paging.table[base, position // shape.capacity].long()
        return base * shape.capacity + position % shape.capacity


class Place(NamedTuple):
    """What all layers of a stack need to know of a step."""

    where: Where
    rows: torch.Tensor  # of the new tokens, int64 [N]
    cos: torch.Tensor  # [N, D / 2]
    sin: torch.Tensor

    @classmethod
    def of(cls, where: Where, new: int, shape: Shape, inv_freq: torch.Tensor, dtype: torch.dtype) -> Place:
        """`new`: T"""
        position = where.first[:, None] + torch.arange(new, device=where.first.device)
        rows = where.paging.rows if where.paging else where.rows(position, shape).flatten()
        angle = position.view(-1, 1).float() * inv_freq
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

    def add_layer_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with a norm that takes the mean out."""

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[N, in] times [out, in] -> [N, out]"""

    def gated(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """[N, in] times [2 * width, in] -> [N, width]: silu of the one half times the other."""

    def gelu(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[N, in] times [out, in] -> [N, out], through the exact gelu."""

    def rope_store(
        self, qkv: torch.Tensor, place: Place, k: torch.Tensor, v: torch.Tensor, shape: Shape
    ) -> torch.Tensor:
        """qkv [N, (H + 2K) * D]: rotates queries and keys, puts keys and values into `k`, `v` [rows, K, D]; returns the
        queries [N, H, D]."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, where: Where, shape: Shape) -> torch.Tensor:
        """q [N, H, D] over what is in `k`, `v` -> [N, H * D]; each query sees the `window` positions up to its own.
        What comes of tokens that are none (`Paging.end`) is any finite number."""

    def hear(self, qkv: torch.Tensor, heads: int) -> torch.Tensor:
        """qkv [N, 3 * width] of one sequence -> [N, width]; every token sees all."""


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

    def add_layer_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if delta is not None:
            x = x + delta
        return x, F.layer_norm(x, weight.shape, weight, bias, eps)

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return F.linear(x, weight, bias)

    def gated(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        gate, up = F.linear(x, weight).chunk(2, -1)
        return F.silu(gate) * up

    def gelu(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return F.gelu(F.linear(x, weight, bias))

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
        batch, new = len(where.slot), len(q) // len(where.slot)
        query = where.first[:, None] + torch.arange(new, device=q.device)  # positions [B, T]
        end = where.first + new if where.paging is None or where.paging.end is None else where.paging.end
        span = min(int(end.max()), shape.window + new - 1)
        key = end[:, None] - span + torch.arange(span, device=q.device)  # positions [B, S]
        rows = where.rows(key, shape)
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

    def hear(self, qkv: torch.Tensor, heads: int) -> torch.Tensor:
        q, k, v = qkv.view(len(qkv), 3, heads, -1).transpose(0, 2).unbind(1)  # [heads, N, dim]
        return F.scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(0, 1).reshape(len(qkv), -1)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
