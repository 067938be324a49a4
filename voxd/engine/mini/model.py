"""Voxtral Mini on one device: encodes windows, prefills prompts and decodes tokens.  Step 8.

Weights come through transformers' `from_pretrained` (safetensors only) and are then ours, fused; the ids of special
tokens are read from the checkpoint's own tokenizer.  Each step is pure device work without a host decision in it, so
that it can be captured as a graph.  A token is chosen in `MiniModel._choose_tokens`.

It knows slots, pages, places and tokens; not conversations, utterances or text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from voxd.engine.contract import Unusable
from voxd.engine.gpu import checkpoints
from voxd.engine.gpu.kv_cache import Pages, Rings, Slots
from voxd.engine.gpu.ops import Ops, Paging, Shape, Where
from voxd.engine.gpu.sampling import choose
from voxd.engine.gpu.stack import Layer, Stack
from voxd.engine.mini.encoder import Encoder
from voxd.engine.mini.interface import (
    ENCODER_HEAD,
    LAST_TOKEN,
    OF_PAGE,
    PAGE,
    PER_WINDOW,
    POSITION,
    SEED,
    SLOT,
    SOURCE,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    WANTED,
    SpecialTokens,
)

ENDLESS = 1 << 30  # as an attention window: no limit


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much memory sequences have.  Slot, page and place 0 come on top: padding writes there."""

    slots: int
    pages: int
    places: int
    context: int  # positions of the longest sequence


class MiniModel:
    """`encode`, `prefill` and `decode` are its steps."""

    @torch.inference_mode()
    def __init__(self, model: Any, extractor: Any, room: Capacity, ops: Ops, *, draws: bool) -> None:
        """Takes `model` (transformers' VoxtralForConditionalGeneration) apart.  `draws`: rows may have a temperature;
        otherwise the likeliest token is taken, whatever they say."""
        language, config = model.model.language_model, model.config.text_config
        self._encoder = Encoder(model.model.audio_tower, model.model.multi_modal_projector, extractor, ops)
        self._embedding, self._head, self._ops, self._draws = (
            language.embed_tokens.weight,
            model.lm_head.weight,
            ops,
            draws,
        )
        self.device, self.dtype = self._embedding.device, self._embedding.dtype
        self.slots, self.pages, self.places = (Slots(n + 1) for n in (room.slots, room.pages, room.places))
        shape = shape_of(config)
        self._rows = Pages(
            config.num_hidden_layers, shape.kv_heads, shape.dim, page=PAGE, pages=room.pages + 1, slots=room.slots + 1,
            context=room.context, device=self.device, dtype=self.dtype,
        )  # fmt: skip
        norms = ("input_layernorm", "post_attention_layernorm")
        layers = [Layer.take(layer, norms) for layer in language.layers]
        norm, inv_freq = language.norm, language.rotary_emb.inv_freq
        self._decoder = Stack(layers, norm.weight, norm.variance_epsilon, inv_freq, shape, self._rows, ops)
        kind = {"device": self.device, "dtype": self.dtype}
        self._heard = torch.zeros(room.places + 1, PER_WINDOW, self._embedding.shape[1], **kind)
        self._said = torch.zeros(room.slots + 1, dtype=torch.int64, device=self.device)

    # ── embeddings ──────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.inference_mode()
    def keep(self, place: int) -> torch.Tensor:
        """A copy of a place's embeddings in the host's memory, complete once the device has done what it was given."""
        source = self._heard[place]
        kept = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
        kept.copy_(source, non_blocking=True)
        return kept

    @torch.inference_mode()
    def put(self, kept: object, place: int) -> None:
        """Brings `kept`, a result of `keep`, to a place."""
        if not isinstance(kept, torch.Tensor):
            raise TypeError("only what was kept can be put")
        self._heard[place].copy_(kept, non_blocking=True)

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.inference_mode()
    def encode(self, block: torch.Tensor) -> torch.Tensor:
        """int32 [1, ENCODER_HEAD + SPAN / 2] -> `extremes`, int64 [1]"""
        samples = block[0, ENCODER_HEAD:].view(torch.int16).float() / 32768
        features, ends = self._encoder.features(samples, block[0, 1:2].view(torch.float32))
        self._heard.index_copy_(0, block[0, :1].long(), self._encoder(features)[None])
        both = ends.view(torch.int32).long()
        return (both[:1] << 32) | (both[1:] & 0xFFFFFFFF)

    @torch.inference_mode()
    def prefill(self, block: torch.Tensor) -> torch.Tensor:
        """int32 [T, HEAD], consecutive tokens of one sequence, then rows of zeros -> a token id, int64 [1].

        It follows the row that is marked as wanted; where none is, it means nothing."""
        table = block.T.to(torch.int64, memory_format=torch.contiguous_format)  # kernels read columns as arrays
        slot, position, source, page = (table[column] for column in (SLOT, POSITION, SOURCE, OF_PAGE))
        rows = self._rows.put(slot, position, page)
        end = position[:1] + (page > 0).sum()
        x = torch.where((source < 0)[:, None], self._audio(source), self._embedding[source.clamp(min=0)])
        only = table[WANTED].argmax()[None]
        where = Where(slot[:1], position[:1], Paging(self._rows.table, rows, end))
        return self._choose_tokens(self._decoder(x, where, only=only), table[:, only])

    @torch.inference_mode()
    def decode(self, block: torch.Tensor) -> torch.Tensor:
        """int32 [B, HEAD], one token each of B sequences -> the token ids that follow, int64 [B]"""
        table = block.T.to(torch.int64, memory_format=torch.contiguous_format)  # kernels read columns as arrays
        slot, position, source, page = (table[column] for column in (SLOT, POSITION, SOURCE, OF_PAGE))
        rows = self._rows.put(slot, position, page)
        token = torch.where(source == LAST_TOKEN, self._said[slot], source)
        where = Where(slot, position, Paging(self._rows.table, rows))
        return self._choose_tokens(self._decoder(self._embedding[token], where), table)

    def _audio(self, source: torch.Tensor) -> torch.Tensor:
        """The audio embeddings of negative sources; for other sources the result is not used."""
        return self._heard.view(-1, self._heard.shape[-1])[(-1 - source).clamp(min=0)]

    def _choose_tokens(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Hidden states [n, width], columns of their rows int64 [HEAD, n] -> the chosen token ids, int64 [n]."""
        logits = self._ops.linear(x, self._head)
        if self._draws:
            temperature, top_p = (table[column].int().view(torch.float32) for column in (TEMPERATURE, TOP_P))
            token_ids = choose(logits, temperature, top_p, table[SEED], table[POSITION], TOP_K)
        else:
            token_ids = logits.argmax(-1)
        self._said.index_copy_(0, table[SLOT], token_ids)
        return token_ids


def shape_of(config: Any) -> Shape:
    """The attention shape of the text model, whose config this is.  Raises Unusable."""
    if getattr(config, "sliding_window", None) is not None:
        raise Unusable("the text model has a sliding window, which Voxtral Mini has not")
    return Shape(config.num_attention_heads, config.num_key_value_heads, config.head_dim, PAGE, ENDLESS)


def page_bytes(config: Any, dtype: torch.dtype) -> int:
    """Device memory of one page; `config` is the whole model's."""
    text = config.text_config
    return PAGE * Rings.row_bytes(text.num_hidden_layers, text.num_key_value_heads, text.head_dim, dtype)


def place_bytes(config: Any, dtype: torch.dtype) -> int:
    """Device memory of one place."""
    return PER_WINDOW * int(config.text_config.hidden_size) * dtype.itemsize


def fixed_bytes(config: Any, dtype: torch.dtype) -> int:
    """Device memory of all weights."""
    from transformers import VoxtralForConditionalGeneration

    with torch.device("meta"):
        model = VoxtralForConditionalGeneration(config)
    positions = model.model.audio_tower.embed_positions.weight.numel()  # stay float32
    total = sum(each.numel() for each in model.parameters())
    return int((total - positions) * dtype.itemsize + positions * 4)


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class MiniCheckpoint:
    """What a folder or a repository holds: transformers' model and feature extractor, and the special tokens."""

    model: Any
    extractor: Any
    special: SpecialTokens

    @classmethod
    def load(cls, source: str, device: str, dtype: torch.dtype, progress: Callable[[str], None]) -> MiniCheckpoint:
        """Loads a folder, or a repository that `voxd pull` has fetched.  Raises Unusable."""
        model, processor = checkpoints.read(source, "voxtral", "Voxtral Mini", device, dtype, progress)
        special = special_of(processor.tokenizer.tokenizer, model.config.text_config.vocab_size)
        return cls(model, processor.feature_extractor, special)


def special_of(tokenizer: Any, vocabulary: int) -> SpecialTokens:
    """`tokenizer`: mistral-common's; `vocabulary`: the model's."""
    tekken = tokenizer.instruct_tokenizer.tokenizer

    def encode(text: str) -> list[int]:
        return list(tekken.encode(text, bos=False, eos=False))

    names = ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[BEGIN_AUDIO]")
    inst, end_inst, system, end_system, audio = (tekken.get_special_token(name) for name in names)
    try:
        transcribe = tekken.get_special_token("[TRANSCRIBE]")
    except ValueError:
        transcribe = None
    known = checkpoints.pieces(tekken, vocabulary)
    return SpecialTokens(
        tekken.bos_id, tekken.eos_id, inst, end_inst, system, end_system, audio, transcribe, known, encode
    )
