"""The Triton kernels against their definition in PyTorch: on the CPU in Triton's interpreter, on a GPU for real."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")  # read when it is imported
pytest.importorskip("triton", reason="Triton is not installed: PyTorch for the CPU does not bring it")

from tests.support.tiny_mini import folder as mini_folder
from tests.support.tiny_voxtral import folder
from voxd.engine.gpu.ops import Paging, Place, Scale, Shape, Torch, Where
from voxd.engine.gpu.triton_ops import Triton
from voxd.engine.mini import model as mini_model
from voxd.engine.mini.interface import LAST_TOKEN as SAID_MINI
from voxd.engine.realtime.model import HEAD, LAST_TOKEN, HistoryLimit, RealtimeCheckpoint, RealtimeModel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Triton's interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = [torch.float32, torch.bfloat16] if torch.cuda.is_available() else [torch.float32]
ENCODER = Shape(heads=2, kv_heads=2, dim=16, capacity=83, window=60), 4  # new tokens
DECODER = Shape(heads=8, kv_heads=2, dim=32, capacity=50, window=40), 1
MINI = Shape(heads=8, kv_heads=2, dim=32, capacity=64, window=1 << 30)
NEAR = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def noise(*size: int, kind: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(DEVICE, kind)


def near(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=NEAR[one.dtype], rtol=NEAR[one.dtype])


def where(*slots_and_firsts: tuple[int, int]) -> Where:
    table = torch.tensor(slots_and_firsts, device=DEVICE)
    return Where(table[:, 0].contiguous(), table[:, 1].contiguous())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [48, 1280])
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_residual_and_norm(kind: torch.dtype, width: int, adds: bool, scaled: bool) -> None:
    x, delta, weight = noise(3, width, kind=kind), noise(3, width, kind=kind, seed=1), noise(width, kind=kind, seed=2)
    scale = Scale(noise(5, width, kind=kind, seed=3), torch.tensor([4, 0, 2], device=DEVICE)) if scaled else None
    more = delta if adds else None
    want = Torch().add_norm(x.clone(), more, weight, 1e-5, scale)
    found = Triton().add_norm(x.clone(), more, weight, 1e-5, scale)
    for one, other in zip(found, want, strict=True):
        near(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "new"), [ENCODER, DECODER])
def test_rotation_and_store(kind: torch.dtype, shape: Shape, new: int) -> None:
    """Queries and whole rings are compared, since nothing else of them may change; positions wrap."""
    at = where((2, 81), (0, 5), (3, 1000))
    qkv = noise(3 * new, (shape.heads + 2 * shape.kv_heads) * shape.dim, kind=kind)
    inv_freq = 1e4 ** -torch.linspace(0, 1, shape.dim // 2, device=DEVICE)
    place = Place.of(at, new, shape, inv_freq, kind)
    rings = [noise(4 * shape.capacity, shape.kv_heads, shape.dim, kind=kind, seed=s) for s in (1, 2)]
    found, want = ([ring.clone() for ring in rings] for _ in range(2))
    near(
        Triton().rope_store(qkv, place, found[0], found[1], shape),
        Torch().rope_store(qkv, place, want[0], want[1], shape),
    )
    for one, other in zip(found, want, strict=True):
        near(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 2, 3])
@pytest.mark.parametrize("width", [48, 3000])
def test_gate(kind: torch.dtype, tokens: int, width: int) -> None:
    """For few tokens each output is a program, for more it is the device's own product."""
    x, weight = noise(tokens, 72, kind=kind), noise(2 * width, 72, kind=kind, seed=1) / 8
    near(Triton().gated(x, weight), Torch().gated(x, weight))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 2, 4, 5])
@pytest.mark.parametrize("biased", [True, False])
def test_product(kind: torch.dtype, tokens: int, biased: bool) -> None:
    x, weight = noise(tokens, 200, kind=kind), noise(1400, 200, kind=kind, seed=1) / 16
    bias = noise(1400, kind=kind, seed=2) if biased else None
    near(Triton().linear(x, weight, bias), Torch().linear(x, weight, bias))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "new"), [ENCODER, DECODER])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_attention(kind: torch.dtype, shape: Shape, new: int, batch: int) -> None:
    """Rings are at the beginning, shorter than the window, exactly full, and wrapped many times; split and not."""
    firsts = [0, 7, shape.window - new, 64, shape.capacity, 1003, 33 * shape.capacity - 1] * 3
    at = where(*((batch - i, firsts[i + (batch == 1)]) for i in range(batch)))
    rings = [noise((batch + 1) * shape.capacity, shape.kv_heads, shape.dim, kind=kind, seed=s) for s in (1, 2)]
    q = noise(batch * new, shape.heads, shape.dim, kind=kind, seed=3)
    want = Torch().attend(q.float(), rings[0].float(), rings[1].float(), at, shape).to(kind)
    near(Triton().attend(q, rings[0], rings[1], at, shape), want)


def paged(at: Where, end: torch.Tensor | None = None) -> Where:
    """Deals out eight pages to each of 17 slots at random."""
    deal = torch.randperm(17 * 8, generator=torch.Generator().manual_seed(9)).view(17, 8).int().to(DEVICE)
    return at._replace(paging=Paging(deal, torch.empty(0), end))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_attention_in_pages(kind: torch.dtype, batch: int) -> None:
    firsts = [127, 0, 63, 64, 500, 128, 65] * 3
    at = paged(where(*((batch - i, firsts[i]) for i in range(batch))))
    rows = [noise(17 * 8 * 64, MINI.kv_heads, MINI.dim, kind=kind, seed=s) for s in (1, 2)]
    q = noise(batch, MINI.heads, MINI.dim, kind=kind, seed=3)
    want = Torch().attend(q.float(), rows[0].float(), rows[1].float(), at, MINI).to(kind)
    near(Triton().attend(q, rows[0], rows[1], at, MINI), want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("first", "new", "real"), [(0, 16, 16), (0, 1, 1), (5, 40, 33), (63, 64, 64), (200, 300, 290), (30, 256, 3)]
)
def test_attention_of_a_prompt(kind: torch.dtype, first: int, new: int, real: int) -> None:
    """Some hundred tokens of one sequence, with padding at the end, follow what is there already; split and not."""
    at = paged(where((3, first)), torch.tensor([first + real], device=DEVICE))
    rows = [noise(17 * 8 * 64, MINI.kv_heads, MINI.dim, kind=kind, seed=s) for s in (1, 2)]
    q = noise(new, MINI.heads, MINI.dim, kind=kind, seed=3)
    want = Torch().attend(q.float(), rows[0].float(), rows[1].float(), at, MINI).to(kind)
    found = Triton().attend(q, rows[0], rows[1], at, MINI)
    near(found[:real], want[:real])
    assert found.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [50, 128, 150])
def test_hearing(kind: torch.dtype, count: int) -> None:
    qkv = noise(count, 3 * 2 * 16, kind=kind)
    near(Triton().hear(qkv, 2), Torch().hear(qkv.float(), 2).to(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [48, 1280])
@pytest.mark.parametrize("adds", [True, False])
def test_residual_and_layer_norm(kind: torch.dtype, width: int, adds: bool) -> None:
    x, delta = noise(3, width, kind=kind) + 2, noise(3, width, kind=kind, seed=1)
    weight, bias = (noise(width, kind=kind, seed=s) for s in (2, 3))
    more = delta if adds else None
    want = Torch().add_layer_norm(x.clone(), more, weight, bias, 1e-5)
    found = Triton().add_layer_norm(x.clone(), more, weight, bias, 1e-5)
    for one, other in zip(found, want, strict=True):
        near(one, other)


@torch.inference_mode()
def test_the_whole_model_says_the_same() -> None:
    """Three sequences at different positions share a batch, as the engine gives them."""
    said = []
    for ops in (Triton(), Torch()):
        checkpoint = RealtimeCheckpoint.load(str(folder(0)), DEVICE, torch.float32, lambda text: None)
        special = replace(checkpoint.special, left=2)  # a short template: the interpreter is slow
        model = RealtimeModel(checkpoint.model, checkpoint.extractor, special, HistoryLimit(60, 20), 31, ops)
        block = torch.randint(-3000, 3000, (3, HEAD + 1000), generator=torch.Generator().manual_seed(0)).int()
        block = (block & 0x0FFF0FFF).to(DEVICE)
        for step in range(4):
            for row, (slot, first, delay) in enumerate(((3, 1, 6), (1, 5, 2), (2, 70, 30))):
                model.join(slot, delay) if step == 0 else None
                block[row, :HEAD] = torch.tensor([slot, first + step, 1000 + row if step == 0 else LAST_TOKEN, delay])
            said.append(model.step(block).tolist())
    assert said[:4] == said[4:]
    assert len({id for token_ids in said for id in token_ids}) > 3


@torch.inference_mode()
def test_the_whole_decoder_of_mini_says_the_same() -> None:
    """A prompt in two parts, padded, with rows of another sequence beside it when tokens are said; what was before is
    zeros to both: the interpreter is slow."""
    said = []
    for ops in (Triton(), Torch()):
        checkpoint = mini_model.MiniCheckpoint.load(str(mini_folder(0)), DEVICE, torch.float32, lambda text: None)
        model = mini_model.MiniModel(
            checkpoint.model, checkpoint.extractor, mini_model.Capacity(3, 9, 1, 256), ops, draws=False
        )
        for slot, pages in ((1, (4, 2)), (3, (7, 1))):
            rows = [[slot, p, 1000 + 3 * p + slot, pages[p // 64], int(p == 69), 0, 0, 0] for p in range(55, 70)]
            for part in (rows[:8], rows[8:]) if slot == 1 else (rows,):
                block = torch.tensor([*part, *[[0] * 8] * 2], dtype=torch.int32, device=DEVICE)
                said += model.prefill(block).tolist()
        for p in (70, 71):
            rows = [[3, p, SAID_MINI, 1, 1, 0, 0, 0], [0] * 8, [1, p, SAID_MINI, 2, 1, 0, 0, 0]]
            said += model.decode(torch.tensor(rows, dtype=torch.int32, device=DEVICE))[::2].tolist()
    assert said[: len(said) // 2] == said[len(said) // 2 :]
    assert len(set(said)) > 3
