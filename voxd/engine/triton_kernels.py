"""The pieces of a layer in Triton, for CUDA devices.  Part of step 8.

What each computes is defined in `kernels.Torch`; rounding follows it too.  Each is one pass over its data.

Attention reads the keys and values of a sequence once for all queries that share them (the new tokens, and the heads of
a group), straight out of its ring; with few sequences the keys are split among programs whose results are merged.

Products of at most FEW tokens are bound by reading the weights once; there a step is a chain of some hundred short
kernels, so each begins while the one before still ends (programmatic dependent launch: `_wait`) and has its first
weights by then.  The products that go back to the residual stream have few outputs, so their sums are split among
programs, and `add_norm` adds up the parts.  For more tokens cuBLAS is better.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
# A kernel is no Python: its arguments are pointers and constants.

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from voxd.engine.kernels import Delta, Place, Scale, Shape, Where

FEW = 16  # tokens: the least that the matrix units take at once
BLOCK = 64  # keys that a program reads at once
SPLITS = 16  # programs among which the keys of one sequence and head are divided when it is alone


@triton.jit
def _wait(PDL: tl.constexpr):
    """The next kernel may begin; what the one before has written may be read from here on."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _add_norm(x, delta, bias, out, weight, table, of, eps, count,
              WIDTH: tl.constexpr, SIZE: tl.constexpr, PARTS: tl.constexpr, BIAS: tl.constexpr, SCALE: tl.constexpr,
              PDL: tl.constexpr):  # fmt: skip
    """PARTS: 0 adds nothing, 1 a tensor, more the parts of a sum in fp32."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, SIZE)
    inside = at < WIDTH
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    _wait(PDL)
    value = tl.load(x + row * WIDTH + at, mask=inside, other=0.0)
    if PARTS > 0:
        more = tl.load(delta + row * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
        for part in tl.static_range(1, PARTS):
            more += tl.load(delta + (part * count + row) * WIDTH + at, mask=inside, other=0.0)
        if BIAS:
            more += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
        value = (value.to(tl.float32) + more.to(value.dtype).to(tl.float32)).to(value.dtype)
        tl.store(x + row * WIDTH + at, value, mask=inside)
    wide = value.to(tl.float32)
    normed = (wide * tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + eps)).to(value.dtype)
    normed = (factor * normed.to(tl.float32)).to(value.dtype)
    if SCALE:
        more = tl.load(table + tl.load(of + row) * WIDTH + at, mask=inside, other=0.0)
        normed = (normed.to(tl.float32) * more.to(tl.float32)).to(value.dtype)
    tl.store(out + row * WIDTH + at, normed, mask=inside)


@triton.jit
def _product(x, weight, bias, out, count, OUT: tl.constexpr, IN: tl.constexpr, PART: tl.constexpr, BIAS: tl.constexpr,
             BO: tl.constexpr, BI: tl.constexpr, M: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """out [parts, count, OUT]: BO outputs of PART inputs each."""
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    real = o < OUT
    m = tl.arange(0, M)
    there = (m < count)[:, None]
    i = tl.program_id(1) * PART + tl.arange(0, BI)
    rows = weight + o[:, None].to(tl.int64) * IN
    columns = tl.load(rows + i[None], mask=real[:, None], other=0.0)
    _wait(PDL)
    total = tl.dot(
        tl.load(x + m[:, None] * IN + i[None], mask=there, other=0.0), tl.trans(columns), input_precision="ieee"
    )
    for start in range(BI, PART, BI):
        columns = tl.load(rows + (start + i)[None], mask=real[:, None], other=0.0)
        inputs = tl.load(x + m[:, None] * IN + (start + i)[None], mask=there, other=0.0)
        total = tl.dot(inputs, tl.trans(columns), total, input_precision="ieee")
    if BIAS:
        total += tl.load(bias + o, mask=real, other=0.0).to(tl.float32)[None]
    target = out + (tl.program_id(1) * count + m[:, None]) * OUT + o[None]
    tl.store(target, total.to(out.dtype.element_ty), mask=there & real[None])


@triton.jit
def _gate(x, weight, out, count, OUT: tl.constexpr, IN: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
          M: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Both halves of a gated unit in one program: weight [2 * OUT, IN]."""
    o = tl.program_id(0) * BO + tl.arange(0, BO)
    real = (o < OUT)[:, None]
    m = tl.arange(0, M)
    there = (m < count)[:, None]
    i = tl.arange(0, BI)
    gates = weight + o[:, None].to(tl.int64) * IN + i[None]
    ups = gates + OUT * IN
    gate_columns = tl.load(gates, mask=real, other=0.0)
    up_columns = tl.load(ups, mask=real, other=0.0)
    _wait(PDL)
    inputs = tl.load(x + m[:, None] * IN + i[None], mask=there, other=0.0)
    gate = tl.dot(inputs, tl.trans(gate_columns), input_precision="ieee")
    up = tl.dot(inputs, tl.trans(up_columns), input_precision="ieee")
    for start in range(BI, IN, BI):
        inputs = tl.load(x + m[:, None] * IN + (start + i)[None], mask=there, other=0.0)
        gate = tl.dot(inputs, tl.trans(tl.load(gates + start, mask=real, other=0.0)), gate, input_precision="ieee")
        up = tl.dot(inputs, tl.trans(tl.load(ups + start, mask=real, other=0.0)), up, input_precision="ieee")
    kind = out.dtype.element_ty
    gate = gate.to(kind).to(tl.float32)
    value = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32) * up.to(kind).to(tl.float32)
    tl.store(out + m[:, None] * OUT + o[None], value.to(kind), mask=there & (o < OUT)[None])


@triton.jit
def _rope_store(qkv, cos, sin, rows, q, k, v, H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BH: tl.constexpr,
                PDL: tl.constexpr):  # fmt: skip
    _wait(PDL)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BH + tl.arange(0, BH)
    half = tl.arange(0, D // 2)
    source = qkv + token * (H + 2 * K) * D + head[:, None] * D + half[None]
    left, right = tl.load(source), tl.load(source + D // 2)
    kind = left.dtype
    if tl.program_id(1) * BH < H + K:
        c = tl.load(cos + token * (D // 2) + half)[None].to(tl.float32)
        s = tl.load(sin + token * (D // 2) + half)[None].to(tl.float32)
        wide_left, wide_right = left.to(tl.float32), right.to(tl.float32)
        left = ((wide_left * c).to(kind).to(tl.float32) + (-wide_right * s).to(kind).to(tl.float32)).to(kind)
        right = ((wide_right * c).to(kind).to(tl.float32) + (wide_left * s).to(kind).to(tl.float32)).to(kind)
    if tl.program_id(1) * BH < H:
        target = q + token * H * D + head[:, None] * D + half[None]
    else:
        row = tl.load(rows + token) * K * D
        if tl.program_id(1) * BH < H + K:
            target = k + row + (head[:, None] - H) * D + half[None]
        else:
            target = v + row + (head[:, None] - H - K) * D + half[None]
    tl.store(target, left)
    tl.store(target + D // 2, right)


@triton.jit
def _silu_mul(gate_up, out, WIDTH: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr):
    _wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = at < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + at, mask=inside, other=0.0)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + at, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype)
    tl.store(out + row * WIDTH + at, (silu.to(tl.float32) * up.to(tl.float32)).to(gate.dtype), mask=inside)


@triton.jit
def _attend(q, k, v, slots, firsts, out, highest, total, partial, scale, splits,
            K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, T: tl.constexpr, CAPACITY: tl.constexpr,
            WINDOW: tl.constexpr, BLOCK: tl.constexpr, M: tl.constexpr, ONE: tl.constexpr,
            PDL: tl.constexpr):  # fmt: skip
    """M query rows: the T new tokens of the G heads that share a key head, padded to what the matrix units want."""
    _wait(PDL)
    b, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    ring, first = tl.load(slots + b).to(tl.int64) * CAPACITY, tl.load(firsts + b).to(tl.int32)
    m = tl.arange(0, M)
    token, sibling = m // G, m % G
    real = m < T * G
    d = tl.arange(0, D)
    at = (b * T + token[:, None]) * (K * G * D) + (head * G + sibling[:, None]) * D + d[None]
    query = tl.load(q + at, mask=real[:, None], other=0.0)
    position = first + token
    low = tl.maximum(first - WINDOW + 1, 0)
    share = tl.cdiv(tl.cdiv(first + T - low, splits), BLOCK) * BLOCK
    begin = low + split * share
    end = tl.minimum(begin + share, first + T)
    top = tl.full([M], -1e30, tl.float32)
    norm = tl.zeros([M], tl.float32)
    mix = tl.zeros([M, D], tl.float32)
    for start in range(begin, end, BLOCK):
        key = start + tl.arange(0, BLOCK)
        there = (key < end)[:, None]
        source = (ring + key % CAPACITY)[:, None] * (K * D) + head * D + d[None]
        score = tl.dot(query, tl.trans(tl.load(k + source, mask=there, other=0.0)), input_precision="ieee") * scale
        seen = (key[None] < end) & (key[None] <= position[:, None]) & (key[None] > position[:, None] - WINDOW)
        score = tl.where(seen, score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.where(seen, tl.exp(score - higher[:, None]), 0.0)
        fade = tl.exp(top - higher)
        value = tl.load(v + source, mask=there, other=0.0)
        norm = norm * fade + tl.sum(weight, 1)
        mix = mix * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        top = higher
    if ONE:
        tl.store(out + at, (mix / norm[:, None]).to(out.dtype.element_ty), mask=real[:, None])
    else:
        i = ((b * K + head) * splits + split) * M + m
        tl.store(highest + i, top)
        tl.store(total + i, norm)
        tl.store(partial + i[:, None] * D + d[None], mix)


@triton.jit
def _merge(highest, total, partial, out, K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, T: tl.constexpr,
           M: tl.constexpr, S: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    _wait(PDL)
    b, head, m = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i = ((b * K + head) * S + tl.arange(0, S)) * M + m
    d = tl.arange(0, D)
    top = tl.load(highest + i)
    weight = tl.exp(top - tl.max(top, 0))
    mix = tl.sum(tl.load(partial + i[:, None] * D + d[None]) * weight[:, None], 0)
    at = (b * T + m // G) * (K * G * D) + (head * G + m % G) * D + d
    tl.store(out + at, (mix / tl.sum(tl.load(total + i) * weight, 0)).to(out.dtype.element_ty))


class Parts(NamedTuple):
    """A product whose sum is in parts, [parts, N, width] in fp32, and the bias that is still to be added."""

    values: torch.Tensor
    bias: torch.Tensor | None


class Triton:
    """`kernels.Ops` for CUDA."""

    def __init__(self) -> None:
        hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
        self._launch = {"PDL": hopper} | ({"launch_pdl": True} if hopper else {})

    def add_norm(
        self, x: torch.Tensor, delta: Delta | None, weight: torch.Tensor, eps: float, scale: Scale | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds to `x` in place."""
        count, width = x.shape
        out = torch.empty_like(x)
        values, bias = delta if isinstance(delta, Parts) else (delta, None)
        parts = 0 if values is None else len(values) if isinstance(delta, Parts) else 1
        table, of = scale or (x, x)
        size = triton.next_power_of_2(width)
        _add_norm[(count,)](
            x, x if values is None else values, x if bias is None else bias, out, weight, table, of, eps, count,
            WIDTH=width, SIZE=size, PARTS=parts, BIAS=bias is not None, SCALE=scale is not None,
            num_warps=8 if size > 2048 else 4, **self._launch,
        )  # fmt: skip
        return x, out

    def expand(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if len(x) > FEW:
            return F.linear(x, weight, bias)
        out = x.new_empty(1, len(x), len(weight))
        self._multiply(x, weight, bias, out)
        return out[0]

    def project(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Delta:
        if len(x) > FEW:
            return F.linear(x, weight, bias)
        sums = next(parts for parts in (4, 2, 1) if weight.shape[1] % (16 * parts) == 0)
        out = x.new_empty(sums, len(x), len(weight), dtype=torch.float32)
        self._multiply(x, weight, None, out)
        return Parts(out, bias)

    def _multiply(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
        count, outputs, inputs = len(x), *weight.shape
        part = inputs // len(out)
        _product[(triton.cdiv(outputs, 16), len(out))](
            x, weight, x if bias is None else bias, out, count,
            OUT=outputs, IN=inputs, PART=part, BIAS=bias is not None, BO=16, BI=math.gcd(128, part), M=FEW, num_warps=2, num_stages=6, **self._launch,
        )  # fmt: skip

    def gate(self, x: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
        count, width = len(x), len(gate_up) // 2
        out = x.new_empty(count, width)
        if count > FEW:
            blocks = count, triton.cdiv(width, 1024)
            _silu_mul[blocks](F.linear(x, gate_up), out, WIDTH=width, SIZE=1024, num_warps=4, **self._launch)
        else:
            inputs = gate_up.shape[1]
            _gate[(triton.cdiv(width, 16),)](
                x, gate_up, out, count, OUT=width, IN=inputs, BO=16, BI=math.gcd(128, inputs), M=FEW,
                num_warps=2, num_stages=5, **self._launch,
            )  # fmt: skip
        return out

    def rope_store(
        self, qkv: torch.Tensor, place: Place, k: torch.Tensor, v: torch.Tensor, shape: Shape
    ) -> torch.Tensor:
        heads, kv_heads, dim = shape.heads, shape.kv_heads, shape.dim
        q = qkv.new_empty(len(qkv), heads, dim)
        together = math.gcd(8, math.gcd(heads, kv_heads))
        _rope_store[(len(qkv), (heads + 2 * kv_heads) // together)](
            qkv,
            place.cos,
            place.sin,
            place.rows,
            q,
            k,
            v,
            H=heads,
            K=kv_heads,
            D=dim,
            BH=together,
            num_warps=2,
            **self._launch,
        )
        return q

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, where: Where, shape: Shape) -> torch.Tensor:
        batch, heads, group = len(where.slot), shape.kv_heads, shape.heads // shape.kv_heads
        out = torch.empty_like(q)
        splits = max(1, SPLITS // triton.next_power_of_2(batch))
        rows = max(16, triton.next_power_of_2(shape.new * group))
        highest, total = (q.new_empty(batch * heads * splits * rows, dtype=torch.float32) for _ in range(2))
        partial = q.new_empty(batch * heads * splits * rows * shape.dim if splits > 1 else 1, dtype=torch.float32)
        sizes = {"K": heads, "G": group, "D": shape.dim, "T": shape.new, "M": rows}
        ring = {"CAPACITY": shape.capacity, "WINDOW": shape.window, "BLOCK": BLOCK}
        _attend[(batch, heads, splits)](
            q, k, v, where.slot, where.first, out, highest, total, partial, shape.dim**-0.5, splits,
            ONE=splits == 1, num_warps=4, num_stages=3, **sizes, **ring, **self._launch,
        )  # fmt: skip
        if splits > 1:
            _merge[(batch, heads, shape.new * group)](
                highest, total, partial, out, S=splits, num_warps=2, **sizes, **self._launch
            )
        return out.view(len(q), shape.heads * shape.dim)
