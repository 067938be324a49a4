"""The audio encoder of Voxtral Mini: a window of 30 s -> 375 embeddings.  Step 8.

The spectrogram is a function of the window's samples and of the 200 before and 40 after it, except for one thing: it is
clamped to 8 (80 dB) below the highest value of the whole audio.  So a window is computed with the highest value that is
known of the other windows, and returns its own highest and lowest: its owner can tell whether another clamp would
change it.

The layers are Whisper's: each frame attends to all others.  It knows samples and weights; not utterances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from voxd.engine.gpu.ops import Ops
from voxd.engine.mini.interface import LOG_RANGE

HOP, FFT_WINDOW = 160, 400  # samples


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """One product for queries, keys and values."""

    norm_in: tuple[torch.Tensor, torch.Tensor]
    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    o: tuple[torch.Tensor, torch.Tensor]
    norm_mlp: tuple[torch.Tensor, torch.Tensor]
    up: tuple[torch.Tensor, torch.Tensor]
    down: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def take(cls, module: Any) -> EncoderLayer:
        """Takes the weights out of a layer of transformers, which loses its own copies."""
        attention = module.self_attn
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        biases = [part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
        layer = cls(
            _pair(module.self_attn_layer_norm),
            torch.cat([part.weight for part in parts]),
            torch.cat(biases),
            _pair(attention.out_proj),
            _pair(module.final_layer_norm),
            _pair(module.fc1),
            _pair(module.fc2),
        )
        del attention.q_proj, attention.k_proj, attention.v_proj
        return layer


def _pair(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return module.weight, module.bias


class Encoder:
    """`tower` and `projector` are transformers' own and are taken apart."""

    def __init__(self, tower: Any, projector: Any, extractor: Any, ops: Ops) -> None:
        if (extractor.hop_length, extractor.n_fft, extractor.dither) != (HOP, FFT_WINDOW, 0.0):
            raise ValueError("the feature extractor is not that of Voxtral Mini")
        device = tower.conv1.weight.device
        self._ops, self._heads, self._eps = ops, tower.config.num_attention_heads, tower.layer_norm.eps
        self._window = torch.hann_window(FFT_WINDOW, device=device)
        self._filters = torch.from_numpy(extractor.mel_filters.T).to(device, torch.float32).contiguous()  # [mels, 201]
        self._conv1, self._conv2 = (
            (conv.weight.transpose(1, 2).flatten(1).contiguous(), conv.bias) for conv in (tower.conv1, tower.conv2)
        )
        self._positions = tower.embed_positions.weight
        self._layers = [EncoderLayer.take(layer) for layer in tower.layers]
        self._norm = _pair(tower.layer_norm)
        self._project = projector.linear_1.weight, projector.linear_2.weight

    def log_mel(self, samples: torch.Tensor) -> torch.Tensor:
        """float32 [n] -> [mels, frames], not clamped: frame i is of samples [160 i, 160 i + 400)."""
        spectrum: torch.Tensor = torch.fft.rfft(samples.unfold(-1, FFT_WINDOW, HOP) * self._window)
        return (self._filters @ (spectrum.abs() ** 2).T).clamp(min=1e-10).log10()

    def features(self, samples: torch.Tensor, highest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [n], the highest value elsewhere float32 [1] -> ([mels, frames], (highest, lowest) float32 [2])."""
        log = self.log_mel(samples)
        low, high = torch.aminmax(log)
        clamped = log.maximum(torch.maximum(high, highest) - LOG_RANGE)
        return (clamped + 4.0) / 4.0, torch.stack([high, low])

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """[mels, frames] -> [frames / 8, width of the decoder]"""
        ops, kind = self._ops, self._conv1[0].dtype
        x = ops.gelu(_spread(features.T.to(kind), 1), *self._conv1)
        x = ops.gelu(_spread(x, 2), *self._conv2)
        x = (x + self._positions).to(kind)
        delta: torch.Tensor | None = None
        for layer in self._layers:
            x, y = ops.add_layer_norm(x, delta, *layer.norm_in, self._eps)
            delta = ops.linear(ops.hear(ops.linear(y, layer.qkv, layer.qkv_bias), self._heads), *layer.o)
            x, y = ops.add_layer_norm(x, delta, *layer.norm_mlp, self._eps)
            delta = ops.linear(ops.gelu(y, *layer.up), *layer.down)
        x = ops.add_layer_norm(x, delta, *self._norm, self._eps)[1]
        together = self._project[0].shape[1]  # of several frames side by side
        return ops.linear(ops.gelu(x.view(-1, together), self._project[0]), self._project[1])


def _spread(x: torch.Tensor, stride: int) -> torch.Tensor:
    """[n, in] -> [n / stride, 3 * in]: what a convolution of width 3 sees for each of its outputs."""
    return F.pad(x, (0, 0, 1, 1)).unfold(0, 3, stride).transpose(1, 2).flatten(1)
