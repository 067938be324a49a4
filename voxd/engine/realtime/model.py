"""Voxtral Realtime on one device: one 80 ms frame of many streams in one forward.  Step 8.

Weights come through transformers' `from_pretrained` (safetensors only) and are then ours: fused, with the delay's
modulation tabulated; the ids of special tokens are read from the checkpoint's own tokenizer.

A sequence is a slot.  Position p of it hears audio up to the end of frame p (40 samples more) and gives token p + 1.
The first `left` frames are silence, so the first `left - 1` positions are the same for every stream: they are computed
once per delay, and a stream begins with a copy of them instead of a prefill.

It knows slots, positions and tokens; not streams, utterances or text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from voxd.engine.gpu import checkpoints
from voxd.engine.gpu.kv_cache import Rings, Slots, Template
from voxd.engine.gpu.ops import Ops, Scale, Shape, Where
from voxd.engine.gpu.stack import Layer, Stack
from voxd.engine.realtime.frontend import PER_FRAME, Front
from voxd.engine.realtime.runs import LAST_TOKEN

DELAYS = 30  # frames: the longest delay
HEAD = 4  # int32 in front of a row's samples: slot, position, token or SAID, delay


@dataclass(frozen=True, slots=True)
class StreamTokens:
    """What the tokenizer knows: how a stream is framed, and the bytes of each token."""

    bos: int
    pad: int  # nothing new
    left: int  # frames of silence before the audio
    tail: int  # frames after the audio and the delay: the last word may be long
    delay: int  # frames: the default
    pieces: tuple[bytes, ...]

    @classmethod
    def read(cls, tokenizer: Any, vocabulary: int) -> StreamTokens:
        """`tokenizer`: mistral-common's; `vocabulary`: the model's."""
        instruct = tokenizer.instruct_tokenizer
        tekken, audio = instruct.tokenizer, instruct.audio_encoder.audio_config
        delay = audio.get_num_delay_tokens()
        return cls(
            bos=tekken.bos_id,
            pad=tekken.get_special_token("[STREAMING_PAD]"),
            left=audio.n_left_pad_tokens,
            tail=audio.n_right_pad_tokens() - delay - 1,  # the last frame of padding says nothing that is read
            delay=delay,
            pieces=checkpoints.pieces(tekken, vocabulary),
        )


@dataclass(frozen=True, slots=True)
class HistoryLimit:
    """How long a sequence may be, in frames."""

    history: int  # since its beginning
    slack: int  # that may be rolled back


class RealtimeModel:
    """`step` is pure device work without a host decision in it, so that it can be captured as a graph."""

    @torch.inference_mode()
    def __init__(
        self, model: Any, extractor: Any, special: StreamTokens, room: HistoryLimit, slots: int, ops: Ops
    ) -> None:
        """Takes `model` (transformers' VoxtralRealtimeForConditionalGeneration) apart."""
        self.special, self.slots = special, Slots(slots)
        tower, language = model.model.audio_tower, model.model.language_model
        projector = model.model.multi_modal_projector
        self.front = Front(extractor, tower.embedder)
        self._embedding, self._head = language.embed_tokens.weight, model.lm_head.weight
        self.device, self.dtype = self._embedding.device, self._embedding.dtype
        self._project = projector.linear_1.weight, projector.linear_2.weight
        self._scales = _scales(model)
        shapes = shapes_of(model.config, room)
        self._encoder = _stack(tower, shapes[0], slots, ops, ("self_attn_layer_norm", "final_layer_norm"))
        self._decoder = _stack(language, shapes[1], slots, ops, ("input_layernorm", "post_attention_layernorm"))
        self.said = torch.zeros(slots, dtype=torch.int64, device=self.device)
        self._heard, self._begun = self._templates()

    # ── sequences ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def opening(self) -> int:
        """Positions that a sequence has when it begins."""
        return self.special.left - 1

    @torch.inference_mode()
    def join(self, slot: int, delay: int) -> None:
        """A sequence begins in this slot."""
        self._encoder.rows.copy_in(slot, self._heard)
        self._decoder.rows.copy_in(slot, self._begun[delay])

    # ── one frame of each ───────────────────────────────────────────────────────────────────────────────────────────

    @torch.inference_mode()
    def step(self, block: torch.Tensor) -> torch.Tensor:
        """int32 [B, HEAD + 1000]: slot, position, token, delay, then 2000 samples s16le -> the token ids that follow,
        int64 [B]."""
        slot, position, token, delay = block[:, :HEAD].T.long().contiguous()  # kernels read them as arrays
        samples = block[:, HEAD:].contiguous().view(torch.int16).float() / 32768
        return self._forward(self.front(samples), slot, position, token, delay)

    def _forward(
        self, heard: torch.Tensor, slot: torch.Tensor, position: torch.Tensor, token: torch.Tensor, delay: torch.Tensor
    ) -> torch.Tensor:
        x = self._encoder(heard, Where(slot, position * PER_FRAME)).view(len(slot), -1)
        x = F.linear(F.gelu(F.linear(x, self._project[0])), self._project[1])
        token = torch.where(token == LAST_TOKEN, self.said[slot], token)
        x = self._embedding[token] + x
        x = self._decoder(x, Where(slot, position), [Scale(table, delay) for table in self._scales])
        token_ids = F.linear(x, self._head).argmax(-1)
        self.said.index_copy_(0, slot, token_ids)
        return token_ids

    def _templates(self) -> tuple[Template, dict[int, Template]]:
        """The first positions of every stream, for each delay; as many at once as there are slots."""
        still = self.front.silence(self.opening)
        begun: dict[int, Template] = {}
        for first in range(1, DELAYS + 1, self.slots.count):
            delays = range(first, min(first + self.slots.count, DELAYS + 1))
            slot = torch.arange(1, len(delays) + 1, device=self.device)
            delay = torch.tensor(list(delays), device=self.device)
            for p in range(self.opening):
                heard = still[PER_FRAME * p : PER_FRAME * (p + 1)].repeat(len(delays), 1)
                token = torch.full_like(slot, self.special.pad if p else self.special.bos)
                self._forward(heard, slot, torch.full_like(slot, p), token, delay)
            begun |= {each: self._decoder.rows.copy_out(i, self.opening) for i, each in enumerate(delays, 1)}
        return self._encoder.rows.copy_out(1, PER_FRAME * self.opening), begun


def shapes_of(config: Any, room: HistoryLimit) -> tuple[Shape, Shape]:
    """Encoder's and decoder's attention; the rings hold the window and the slack, or the whole history if shorter."""
    shapes = []
    for part, new in ((config.audio_config, PER_FRAME), (config.text_config, 1)):
        window = part.sliding_window or new * room.history
        capacity = min(window - 1 + new * (room.slack + 1), new * room.history)
        heads = part.num_attention_heads, part.num_key_value_heads
        shapes.append(Shape(*heads, part.head_dim, capacity, window))
    return shapes[0], shapes[1]


def slot_bytes(config: Any, room: HistoryLimit, dtype: torch.dtype) -> int:
    """Device memory of one sequence."""
    layers = config.audio_config.num_hidden_layers, config.text_config.num_hidden_layers
    shapes = shapes_of(config, room)
    return sum(
        Rings.row_bytes(count, shape.kv_heads, shape.dim, dtype) * shape.capacity
        for count, shape in zip(layers, shapes, strict=True)
    )


def fixed_bytes(config: Any, opening: int, dtype: torch.dtype) -> int:
    """Device memory of the weights, and of what every stream begins with."""
    from transformers import VoxtralRealtimeForConditionalGeneration

    with torch.device("meta"):
        model = VoxtralRealtimeForConditionalGeneration(config)
    parts, rows = (config.audio_config, config.text_config), (PER_FRAME, DELAYS)
    begun = [
        many * opening * Rings.row_bytes(part.num_hidden_layers, part.num_key_value_heads, part.head_dim, dtype)
        for part, many in zip(parts, rows, strict=True)
    ]
    return int(sum(each.numel() for each in model.parameters()) * dtype.itemsize + sum(begun))


def _stack(module: Any, shape: Shape, slots: int, ops: Ops, norms: tuple[str, str]) -> Stack[Rings]:
    weight = module.norm.weight
    rings = Rings(
        len(module.layers), shape.kv_heads, shape.dim,
        slots=slots, capacity=shape.capacity, device=weight.device, dtype=weight.dtype,
    )  # fmt: skip
    layers = [Layer.take(layer, norms) for layer in module.layers]
    return Stack(layers, weight, module.norm.variance_epsilon, module.rotary_emb.inv_freq, shape, rings, ops)


def _scales(model: Any) -> list[torch.Tensor]:
    """The factors of each decoder layer, a function of the delay alone: [DELAYS + 1, width] per layer."""
    weight = model.model.language_model.norm.weight
    times = [model.model.time_embedding(weight.new_full((1,), delay)) for delay in range(DELAYS + 1)]
    return [
        torch.stack([1 + layer.ada_rms_norm(time[None])[0] for time in times])
        for layer in model.model.language_model.layers
    ]


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RealtimeCheckpoint:
    """What a folder or a repository holds: transformers' model and feature extractor, and the special tokens."""

    model: Any
    extractor: Any
    special: StreamTokens

    @classmethod
    def load(cls, source: str, device: str, dtype: torch.dtype, progress: Callable[[str], None]) -> RealtimeCheckpoint:
        """Loads a folder, or a repository that `voxd pull` has fetched.  Raises Unusable."""
        model, processor = checkpoints.read(source, "voxtral_realtime", "Voxtral Realtime", device, dtype, progress)
        special = StreamTokens.read(processor.tokenizer.tokenizer, model.config.text_config.vocab_size)
        return cls(model, processor.feature_extractor, special)
