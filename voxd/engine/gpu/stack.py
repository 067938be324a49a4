"""One transformer stack over packed tokens of many sequences.  Step 8.

The weights are those of a transformers model, taken as they are; the forward is ours: transformers keeps one length for
a whole batch, here each sequence has its own.  It knows layers, rings and pages; not audio, text or streams.

A step gives every sequence T new tokens (some hundred of a single one where a prompt is read), so x is [B * T, width].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from voxd.engine.gpu.kv_cache import Pages, Rings
from voxd.engine.gpu.ops import Ops, Place, Scale, Shape, Where


@dataclass(frozen=True, slots=True)
class Layer:
    """Fused weights: one product for queries, keys and values, one for gate and up."""

    norm_in: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    o: torch.Tensor
    o_bias: torch.Tensor | None
    norm_mlp: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    down_bias: torch.Tensor | None

    @classmethod
    def take(cls, module: Any, names: tuple[str, str]) -> Layer:
        """Takes the weights out of a layer of transformers, which loses its own copies; `names`: its two norms."""
        attention, mlp = module.self_attn, module.mlp
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        bias = None
        if any(part.bias is not None for part in parts):
            none = [part.weight.new_zeros(len(part.weight)) for part in parts]
            bias = torch.cat(
                [zeros if part.bias is None else part.bias for part, zeros in zip(parts, none, strict=True)]
            )
        layer = cls(
            getattr(module, names[0]).weight,
            torch.cat([part.weight for part in parts]),
            bias,
            attention.o_proj.weight,
            attention.o_proj.bias,
            getattr(module, names[1]).weight,
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
            mlp.down_proj.weight,
            mlp.down_proj.bias,
        )
        del attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj
        return layer


Memory = TypeVar("Memory", Rings, Pages)


class Stack(Generic[Memory]):
    """Pre-norm layers with rotary positions, grouped queries, a window, and a gated MLP."""

    def __init__(
        self,
        layers: list[Layer],
        norm: torch.Tensor,
        eps: float,
        inv_freq: torch.Tensor,
        shape: Shape,
        rows: Memory,
        ops: Ops,
    ) -> None:
        self.layers, self.norm, self.eps, self.inv_freq = layers, norm, eps, inv_freq.float()
        self.shape, self._ops = shape, ops
        self.rows: Memory = rows

    def __call__(
        self, x: torch.Tensor, where: Where, scales: list[Scale] | None = None, only: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x [B * T, width] -> the same shape, normed; each sequence has T more positions afterwards.

        `scales`: per layer, what the MLP's normed input is multiplied with.  `only`: which tokens are wanted, int64
        [n]; then the result is [n, width], and the others leave once their keys and values are stored."""
        ops, shape = self._ops, self.shape
        place = Place.of(where, len(x) // len(where.slot), shape, self.inv_freq, x.dtype)
        delta: torch.Tensor | None = None
        for i, layer in enumerate(self.layers):
            k, v = self.rows.k[i], self.rows.v[i]
            x, y = ops.add_norm(x, delta, layer.norm_in, self.eps)
            q = ops.rope_store(ops.linear(y, layer.qkv, layer.qkv_bias), place, k, v, shape)
            seen = ops.attend(q, k, v, where, shape)
            if only is not None and layer is self.layers[-1]:
                x, seen = x[only], seen[only]
            delta = ops.linear(seen, layer.o, layer.o_bias)
            x, y = ops.add_norm(x, delta, layer.norm_mlp, self.eps, scales[i] if scales else None)
            delta = ops.linear(ops.gated(y, layer.gate_up), layer.down, layer.down_bias)
        return ops.add_norm(x, delta, self.norm, self.eps)[1]
