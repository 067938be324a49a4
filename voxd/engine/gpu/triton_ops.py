"""The operations of a transformer layer in Triton, for CUDA devices.  Step 8.

What each computes is defined in `ops.Torch`; rounding follows it too.  Each is one pass over its data.

Matrix products are cuBLAS's, but for the few tokens of one or two streams: there each output is a program whose part of
the weight is on its way before its tokens are there, for with few tokens kernels are short and what is between them
counts (docs/SPEED.md).  On Hopper each kernel is set up while the one before runs.

Attention reads the keys and values of a sequence once for all queries that share them (up to QUERIES: new tokens, and
the heads of a group), straight out of its ring or its pages; with few sequences the keys are split among programs whose
results are merged.  This module knows no model.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
# A kernel is not typed Python: its arguments are pointers and constants.

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from voxd.engine.gpu.ops import Place, Scale, Shape, Where

BLOCK, WARPS, STAGES = 64, 4, 2  # keys that a program reads at once; how it is run
LOG2_E = math.log2(math.e)
QUERIES = 64  # that a program of attention computes, where there are as many
HEARING = 128  # the same where all see all
SPLITS = 16  # programs among which the keys of one sequence and head are divided at most,
PROGRAMS = 512  # and how many are wanted in all; half of them where each has many queries
FEW = 2  # tokens, up to which products are this module's
SUMS = 6144  # or sums in all: with so few, cuBLAS's tiles keep a part of the device busy only
LONG = 16384  # inputs, up to which they fit into its registers
EARLY = 64  # tokens, up to which the next kernel is set up early; with more it is in the way


@triton.jit
def _turn(EARLY: tl.constexpr):
    """The next kernel may be set up now; the one before must be over."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _add_norm(x, delta, out, weight, table, of, eps,
              WIDTH: tl.constexpr, SIZE: tl.constexpr, ADD: tl.constexpr, SCALE: tl.constexpr,
              EARLY: tl.constexpr):  # fmt: skip
    _turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, SIZE)
    inside = at < WIDTH
    value = tl.load(x + row * WIDTH + at, mask=inside, other=0.0)
    if ADD:
        more = tl.load(delta + row * WIDTH + at, mask=inside, other=0.0)
        value = (value.to(tl.float32) + more.to(tl.float32)).to(value.dtype)
        tl.store(x + row * WIDTH + at, value, mask=inside)
    wide = value.to(tl.float32)
    normed = (wide * tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + eps)).to(value.dtype)
    normed = (tl.load(weight + at, mask=inside, other=0.0).to(tl.float32) * normed.to(tl.float32)).to(value.dtype)
    if SCALE:
        factor = tl.load(table + tl.load(of + row) * WIDTH + at, mask=inside, other=0.0)
        normed = (normed.to(tl.float32) * factor.to(tl.float32)).to(value.dtype)
    tl.store(out + row * WIDTH + at, normed, mask=inside)


@triton.jit
def _rope_store(qkv, cos, sin, rows, q, k, v, H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BH: tl.constexpr,
                EARLY: tl.constexpr):  # fmt: skip
    _turn(EARLY)
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
def _silu_mul(gate_up, out, WIDTH: tl.constexpr, SIZE: tl.constexpr, EARLY: tl.constexpr):
    _turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = at < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + at, mask=inside, other=0.0)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + at, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype)
    tl.store(out + row * WIDTH + at, (silu.to(tl.float32) * up.to(tl.float32)).to(gate.dtype), mask=inside)


@triton.jit
def _add_layer_norm(x, delta, out, weight, bias, eps, WIDTH: tl.constexpr, SIZE: tl.constexpr, ADD: tl.constexpr,
                    EARLY: tl.constexpr):  # fmt: skip
    _turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, SIZE)
    inside = at < WIDTH
    value = tl.load(x + row * WIDTH + at, mask=inside, other=0.0)
    if ADD:
        more = tl.load(delta + row * WIDTH + at, mask=inside, other=0.0)
        value = (value.to(tl.float32) + more.to(tl.float32)).to(value.dtype)
        tl.store(x + row * WIDTH + at, value, mask=inside)
    wide = value.to(tl.float32)
    wide = tl.where(inside, wide - tl.sum(wide, 0) / WIDTH, 0.0)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    scale = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + at, (normed * scale + shift).to(value.dtype), mask=inside)


@triton.jit
def _see(query, key, value, seen, top, norm, mix, scale, ALL: tl.constexpr):
    """One more block of keys; ALL: every query sees all of it.  Exponents are of 2, and `scale` is made for that."""
    score = tl.dot(query, tl.trans(key), input_precision="ieee")
    if not ALL:
        score = tl.where(seen, score, -1e30)
    higher = tl.maximum(top, tl.max(score, 1) * scale)
    weight = tl.exp2(score * scale - higher[:, None])
    if not ALL:
        weight = tl.where(seen, weight, 0.0)
    fade = tl.exp2(top - higher)
    norm = norm * fade + tl.sum(weight, 1)
    mix = mix * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
    return higher, norm, mix


@triton.jit
def _stretch(first, ends, split, splits, T: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr,
             PAGED: tl.constexpr, ENDS: tl.constexpr):  # fmt: skip
    """The keys [begin, end) that a program reads for T tokens from `first`."""
    stop = first + T
    if ENDS:
        last = tl.load(ends).to(tl.int32)
        stop = tl.where(first < last, tl.minimum(stop, last), 0)
    low = 0 if PAGED else tl.maximum(first - WINDOW + 1, 0)
    share = tl.cdiv(tl.cdiv(stop - low, splits), BLOCK) * BLOCK
    begin = low + split * share
    return begin, tl.minimum(begin + share, stop)


@triton.jit
def _page(k, v, table, start, head, D: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.load(table + start // BLOCK) * BLOCK
    return k.load([row, head * D]), v.load([row, head * D])


@triton.jit
def _attend(q, k, v, slots, firsts, ends, table, pages, out, highest, total, partial, scale, new, tiles, splits,
            K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, T: tl.constexpr, M: tl.constexpr,
            CAPACITY: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, PAGED: tl.constexpr,
            ENDS: tl.constexpr, ONE: tl.constexpr, EARLY: tl.constexpr):  # fmt: skip
    """M query rows: T of the new tokens, of each the G heads that share a key head, padded to what the matrix units
    want.  The last tokens, which see the most, begin first.  PAGED: a block of keys is a page, and `k`, `v` are
    descriptors, so that it comes in one copy."""
    _turn(EARLY)
    program, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    b, begun = program // tiles, (tiles - 1 - program % tiles) * T
    slot, first = tl.load(slots + b).to(tl.int64), tl.load(firsts + b).to(tl.int32)
    m = tl.arange(0, M)
    token, sibling = begun + m // G, m % G
    real = (m < T * G) & (token < new)
    d = tl.arange(0, D)
    at = (b * new + token[:, None]) * (K * G * D) + (head * G + sibling[:, None]) * D + d[None]
    query = tl.load(q + at, mask=real[:, None], other=0.0)
    position = first + token
    begin, end = _stretch(first + begun, ends + b, split, splits, T, WINDOW, BLOCK, PAGED, ENDS)
    top = tl.full([M], -1e30, tl.float32)
    norm = tl.zeros([M], tl.float32)
    mix = tl.zeros([M, D], tl.float32)
    table += slot * pages
    if PAGED:
        every = tl.minimum(end, (first + begun + 1) // BLOCK * BLOCK)  # keys before it are seen by all queries
        for start in range(begin, every, BLOCK):
            keys, values = _page(k, v, table, start, head, D, BLOCK)
            top, norm, mix = _see(query, keys, values, True, top, norm, mix, scale, True)
        begin = tl.maximum(begin, every)
    for start in range(begin, end, BLOCK):
        key = start + tl.arange(0, BLOCK)
        if PAGED:
            keys, values = _page(k, v, table, start, head, D, BLOCK)
        else:
            source = (slot * CAPACITY + key % CAPACITY)[:, None] * (K * D) + head * D + d[None]
            keys = tl.load(k + source, mask=(key < end)[:, None], other=0.0)
            values = tl.load(v + source, mask=(key < end)[:, None], other=0.0)
        seen = (key[None] < end) & (key[None] <= position[:, None]) & (key[None] > position[:, None] - WINDOW)
        top, norm, mix = _see(query, keys, values, seen, top, norm, mix, scale, False)
    if ONE:
        if ENDS:
            norm = tl.maximum(norm, 1e-30)  # tokens that are none have seen nothing
        tl.store(out + at, (mix / norm[:, None]).to(out.dtype.element_ty), mask=real[:, None])
    else:
        i = ((program * K + head) * splits + split) * M + m
        tl.store(highest + i, top)
        tl.store(total + i, norm)
        tl.store(partial + i[:, None] * D + d[None], mix)


@triton.jit
def _merge(highest, total, partial, out, new, tiles, K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, T: tl.constexpr,
           M: tl.constexpr, S: tl.constexpr, ENDS: tl.constexpr, EARLY: tl.constexpr):  # fmt: skip
    _turn(EARLY)
    program, head, m = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i = ((program * K + head) * S + tl.arange(0, S)) * M + m
    d = tl.arange(0, D)
    top = tl.load(highest + i)
    weight = tl.exp2(top - tl.max(top, 0))
    mix = tl.sum(tl.load(partial + i[:, None] * D + d[None]) * weight[:, None], 0)
    norm = tl.sum(tl.load(total + i) * weight, 0)
    if ENDS:
        norm = tl.maximum(norm, 1e-30)
    token = (tiles - 1 - program % tiles) * T + m // G
    at = (program // tiles * new + token) * (K * G * D) + (head * G + m % G) * D + d
    tl.store(out + at, (mix / norm).to(out.dtype.element_ty), mask=token < new)


@triton.jit
def _hear(queries, keys, out, N, scale, H: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
          BLOCK: tl.constexpr):  # fmt: skip
    """ROWS queries of a head over all N keys; the descriptors are of the same [N, 3 * H * D]."""
    begun, head = tl.program_id(0) * ROWS, tl.program_id(1)
    query = queries.load([begun, head * D])
    top = tl.full([ROWS], -1e30, tl.float32)
    norm = tl.zeros([ROWS], tl.float32)
    mix = tl.zeros([ROWS, D], tl.float32)
    every = N // BLOCK * BLOCK
    for start in range(0, every, BLOCK):
        key, value = keys.load([start, (H + head) * D]), keys.load([start, (2 * H + head) * D])
        top, norm, mix = _see(query, key, value, True, top, norm, mix, scale, True)
    if every < N:
        key, value = keys.load([every, (H + head) * D]), keys.load([every, (2 * H + head) * D])
        seen = (every + tl.arange(0, BLOCK) < N)[None]
        top, norm, mix = _see(query, key, value, seen, top, norm, mix, scale, False)
    row = begun + tl.arange(0, ROWS)
    at = row[:, None] * (H * D) + head * D + tl.arange(0, D)[None]
    tl.store(out + at, (mix / norm[:, None]).to(out.dtype.element_ty), mask=(row < N)[:, None])


@triton.jit
def _product(x, weight, bias, out, OUT: tl.constexpr, K: tl.constexpr, SIZE: tl.constexpr, M: tl.constexpr,
             BIAS: tl.constexpr, GATE: tl.constexpr, EARLY: tl.constexpr):  # fmt: skip
    """M tokens times one row of the weight; GATE: and the row of the other half, then the gate."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, SIZE)
    inside = k < K
    left = tl.load(weight + row * K + k, mask=inside, other=0.0)
    if GATE:
        right = tl.load(weight + (row + OUT) * K + k, mask=inside, other=0.0)
    if BIAS:
        shift = tl.load(bias + row).to(tl.float32)
    _turn(EARLY)
    kind = out.dtype.element_ty
    for m in tl.static_range(M):
        token = tl.load(x + m * K + k, mask=inside, other=0.0).to(tl.float32)
        total = tl.sum(left.to(tl.float32) * token, 0)
        if BIAS:
            total += shift
        if GATE:
            gate = total.to(kind).to(tl.float32)
            up = tl.sum(right.to(tl.float32) * token, 0).to(kind).to(tl.float32)
            total = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32) * up
        tl.store(out + m * OUT + row, total.to(kind))


class Triton:
    """`ops.Ops` for CUDA."""

    def __init__(self) -> None:
        self._early = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)

    def _launch(self, count: int) -> dict[str, bool]:
        """How a kernel for so many tokens is launched."""
        return {"EARLY": True, "launch_pdl": True} if self._early and count <= EARLY else {"EARLY": False}

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, scale: Scale | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds to `x` in place."""
        count, width = x.shape
        out = torch.empty_like(x)
        table, of = scale or (x, x)
        size = triton.next_power_of_2(width)
        _add_norm[(count,)](
            x, x if delta is None else delta, out, weight, table, of, eps,
            WIDTH=width, SIZE=size, ADD=delta is not None, SCALE=scale is not None, num_warps=8 if size > 2048 else 4,
            **self._launch(count),
        )  # fmt: skip
        return x, out

    def add_layer_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds to `x` in place."""
        count, width = x.shape
        out = torch.empty_like(x)
        size = triton.next_power_of_2(width)
        _add_layer_norm[(count,)](
            x, x if delta is None else delta, out, weight, bias, eps,
            WIDTH=width, SIZE=size, ADD=delta is not None, num_warps=8 if size > 2048 else 4, **self._launch(count),
        )  # fmt: skip
        return x, out

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if self._ours(len(x), weight):
            return self._product(x, weight, bias, len(weight), gate=False)
        return F.linear(x, weight, bias)

    def gated(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self._ours(len(x), weight):
            return self._product(x, weight, None, len(weight) // 2, gate=True)
        return self._silu_mul(F.linear(x, weight))

    def gelu(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return F.gelu(F.linear(x, weight, bias))

    @staticmethod
    def _ours(tokens: int, weight: torch.Tensor) -> bool:
        outputs, inputs = weight.shape
        return inputs <= LONG and (tokens <= FEW or tokens * outputs <= SUMS)

    def _product(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, width: int, *, gate: bool
    ) -> torch.Tensor:
        count, k = x.shape
        out = x.new_empty(count, width)
        _product[(width,)](
            x, weight, x if bias is None else bias, out, OUT=width, K=k, SIZE=triton.next_power_of_2(k), M=count,
            BIAS=bias is not None, GATE=gate, num_warps=WARPS, **self._launch(count),
        )  # fmt: skip
        return out

    def _silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        count, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(count, width)
        _silu_mul[(count, triton.cdiv(width, 1024))](
            gate_up, out, WIDTH=width, SIZE=1024, num_warps=4, **self._launch(count)
        )
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
            **self._launch(len(qkv)),
        )
        return q

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, where: Where, shape: Shape) -> torch.Tensor:
        batch, heads, group = len(where.slot), shape.kv_heads, shape.heads // shape.kv_heads
        new, paging = len(q) // batch, where.paging
        tokens = min(new, max(1, QUERIES // group))
        tiles = triton.cdiv(new, tokens)
        programs = batch * tiles
        out = torch.empty_like(q)
        rows = max(16, triton.next_power_of_2(tokens * group))
        wanted = PROGRAMS if rows == 16 else PROGRAMS // 2
        splits = min(SPLITS, max(1, wanted // (triton.next_power_of_2(programs) * heads)))
        highest, total = (q.new_empty(programs * heads * splits * rows, dtype=torch.float32) for _ in range(2))
        partial = q.new_empty(programs * heads * splits * rows * shape.dim if splits > 1 else 1, dtype=torch.float32)
        end = where.first if paging is None or paging.end is None else paging.end
        table = where.slot[:, None] if paging is None else paging.table
        sizes = {"K": heads, "G": group, "D": shape.dim, "T": tokens, "M": rows, "ENDS": end is not where.first}
        memory = {"CAPACITY": shape.capacity, "WINDOW": shape.window, "BLOCK": BLOCK, "PAGED": paging is not None}
        launch = self._launch(len(q))
        if paging is not None:
            k, v = (TensorDescriptor.from_tensor(rows_of.flatten(1), [BLOCK, shape.dim]) for rows_of in (k, v))
        _attend[(programs, heads, splits)](
            q, k, v, where.slot, where.first, end, table, table.shape[1], out, highest, total, partial,
            shape.dim**-0.5 * LOG2_E, new, tiles, splits,
            ONE=splits == 1, num_warps=WARPS, num_stages=STAGES, **sizes, **memory, **launch,
        )  # fmt: skip
        if splits > 1:
            _merge[(programs, heads, tokens * group)](
                highest, total, partial, out, new, tiles, S=splits, num_warps=2, **sizes, **launch
            )
        return out.view(len(q), shape.heads * shape.dim)

    def hear(self, qkv: torch.Tensor, heads: int) -> torch.Tensor:
        count, dim = len(qkv), qkv.shape[1] // (3 * heads)
        out = qkv.new_empty(count, heads * dim)
        queries, keys = (TensorDescriptor.from_tensor(qkv, [rows, dim]) for rows in (HEARING, BLOCK))
        _hear[(triton.cdiv(count, HEARING), heads)](
            queries, keys, out, count, dim**-0.5 * LOG2_E, H=heads, D=dim, ROWS=HEARING, BLOCK=BLOCK, num_warps=WARPS,
            num_stages=3,
        )  # fmt: skip
        return out
