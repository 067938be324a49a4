"""Turns samples into the input of Voxtral Realtime's audio encoder, without any state.  Step 8.

The four encoder inputs of a frame are a function of 2000 samples: 11 mel frames, through two convolutions without
padding 9 and then 4.  So a stream is a ring of raw samples, and any frame can be computed again at any time.

It knows no streams.  The result equals what transformers' feature extractor and embedder make of the whole audio.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

HOP, FFT_WINDOW = 160, 400
PER_FRAME = 4  # encoder inputs per frame


class Front:
    """`extractor` and `embedder` are transformers' own."""

    def __init__(self, extractor: Any, embedder: Any) -> None:
        conv1, conv2 = embedder.conv1, embedder.conv2
        device = conv1.weight.device
        if (extractor.hop_length, extractor.n_fft, extractor.win_length) != (HOP, FFT_WINDOW, FFT_WINDOW):
            raise ValueError("the feature extractor is not that of Voxtral Realtime")
        self._window = torch.hann_window(FFT_WINDOW, device=device)
        self._filters = torch.from_numpy(extractor.mel_filters.T).to(device, torch.float32).contiguous()  # [mels, 201]
        self._floor = extractor.global_log_mel_max - 8.0
        self._conv1, self._conv2 = ((conv.weight.flatten(1), conv.bias) for conv in (conv1, conv2))

    def mel(self, samples: torch.Tensor) -> torch.Tensor:
        """float32 [B, n] -> [B, frames, mels], not centred: frame i is of samples [160 i, 160 i + 400)."""
        spectrum: torch.Tensor = torch.fft.rfft(samples.unfold(-1, FFT_WINDOW, HOP) * self._window)
        # This way round the product of a single stream is three times as fast on a GPU.
        log = (self._filters @ (spectrum.abs() ** 2).transpose(1, 2)).clamp(min=1e-10).log10()
        return ((log.clamp(min=self._floor) + 4.0) / 4.0).transpose(1, 2)

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """float32 [B, 2000] -> [4 B, width]"""
        return self._embed(self.mel(samples).to(self._conv1[0].dtype)).flatten(0, 1)

    def silence(self, frames: int) -> torch.Tensor:
        """The first inputs of every stream, whose audio begins with silence: [4 frames, width].

        Here the convolutions see their zero padding."""
        still = self.mel(torch.zeros(1, FFT_WINDOW, device=self._window.device)).to(self._conv1[0].dtype)
        mel = F.pad(still.expand(-1, 2 * PER_FRAME * frames, -1), (0, 0, 2, 0))
        hidden = F.pad(F.gelu(_convolve(mel, *self._conv1, stride=1)), (0, 0, 1, 0))
        return F.gelu(_convolve(hidden, *self._conv2, stride=2))[0]

    def _embed(self, mel: torch.Tensor) -> torch.Tensor:
        """[B, 11, mels] -> [B, 4, width]"""
        hidden = F.gelu(_convolve(mel, *self._conv1, stride=1))
        return F.gelu(_convolve(hidden, *self._conv2, stride=2))


def _convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, stride: int) -> torch.Tensor:
    """A convolution of width 3 as one matrix product: [B, n, in] -> [B, (n - 1) // stride, out]."""
    return F.linear(x.unfold(1, 3, stride).flatten(2), weight, bias)
