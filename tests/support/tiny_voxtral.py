"""Tiny Voxtral Realtime checkpoints with random weights, and what transformers itself makes of a clip with them.

All that fixes shapes in time is the real thing (16 kHz, 128 mel bins, 80 ms per token, 32 tokens of silence first);
widths, depths and windows are small.  transformers' own initialisation gives one repeated token, which proves nothing:
here attention is sharp, and the rows of the vocabulary are scaled until greedy output looks like a transcript, with
blanks, words and text that depend on the audio and on what came before.
"""

from __future__ import annotations

import atexit
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

RATE, FRAME = 16_000, 1280
VOCABULARY, SPECIAL = 1512, 1000
BOS, EOS, PAD, WORD = 1, 2, 32, 33
CONTROL = {  # of all Voxtral models
    0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]", 6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]", 11: "<pad>", 14: "[PREFIX]", 15: "[MIDDLE]",
    16: "[SUFFIX]", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]", 19: "[TOOL_CONTENT]", 24: "[AUDIO]",
    25: "[BEGIN_AUDIO]",
}  # fmt: skip
STREAMING = {32: "[STREAMING_PAD]", 33: "[STREAMING_WORD]", 34: "[REPEAT_AUDIO_TEXT]"}
STREAMED = {
    "chunk_length_s": None, "transcription_format": "streaming", "transcription_delay_ms": 480,
    "streaming_look_ahead_ms": 2.5, "streaming_look_back_ms": 52.5, "streaming_n_left_pad_tokens": 32,
}  # fmt: skip
Samples = npt.NDArray[np.float32]


def speechlike(seconds: float, seed: int) -> Samples:
    """Gliding harmonics in bursts like syllables, and noise; whole steps of int16, float32 [n] at 16 kHz."""
    rng, count = np.random.default_rng(seed), int(seconds * RATE)
    at = np.arange(count) / RATE
    pitch = 110 + 60 * rng.random() + 30 * np.sin(2 * np.pi * (0.6 + rng.random()) * at)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = np.zeros(count)
    for harmonic in range(1, 9):
        voice += np.sin(harmonic * phase) * (0.5 + 0.5 * np.sin(2 * np.pi * rng.random() * 3 * at)) / harmonic
    bursts = np.sin(2 * np.pi * (2 + 2 * rng.random()) * at + rng.random()) > -0.3
    wave = np.clip(0.1 * voice * bursts + 0.003 * rng.standard_normal(count), -0.45, 0.45)
    return (np.round(wave * 32768) / 32768).astype(np.float32)


@cache
def folder(seed: int, encoder_window: int = 200, decoder_window: int = 64) -> Path:
    """A checkpoint; made once per process, and gone with it."""
    from transformers import VoxtralRealtimeFeatureExtractor, VoxtralRealtimeProcessor
    from transformers.tokenization_mistral_common import MistralCommonBackend

    torch.set_num_threads(1)
    path = Path(mkdtemp(prefix="tiny-voxtral-"))
    atexit.register(rmtree, path, ignore_errors=True)
    write_tokenizer(path / "tekken.json", STREAMING, STREAMED)
    processor = VoxtralRealtimeProcessor(
        feature_extractor=VoxtralRealtimeFeatureExtractor(feature_size=128),
        tokenizer=MistralCommonBackend(path / "tekken.json"),
    )
    model = _model(encoder_window, decoder_window)
    randomise(model, seed)
    _calibrate(model, processor, seed)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def write_tokenizer(path: Path, names: Mapping[int, str], audio: Mapping[str, object]) -> None:
    """The first ranks of the vocabulary that mistral-common ships, and the special tokens of the released model:
    CONTROL and `names`."""
    import mistral_common

    data = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text("utf-8"))
    count, control = VOCABULARY - SPECIAL, {**CONTROL, **names}
    sizes = {"num_vocab_tokens": count, "default_vocab_size": VOCABULARY, "default_num_special_tokens": SPECIAL}
    spectrum = {"num_mel_bins": 128, "hop_length": 160, "window_size": 400}
    special = [control.get(i, f"<SPECIAL_{i}>") for i in range(SPECIAL)]
    tokenizer = {
        "config": {"pattern": data["config"]["pattern"], "version": "v7", **sizes},
        "vocab": data["vocab"][:count],
        "special_tokens": [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(special)],
        "audio": {"sampling_rate": RATE, "frame_rate": 12.5, "audio_encoding_config": spectrum, **audio},
    }
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def _model(encoder_window: int, decoder_window: int) -> Any:
    from transformers import GenerationConfig, VoxtralRealtimeConfig, VoxtralRealtimeForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e6}
    size = {"num_attention_heads": 4, "head_dim": 16, "rope_parameters": rope, "vocab_size": VOCABULARY}
    audio = {
        "model_type": "voxtral_realtime_encoder", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_mel_bins": 128, "sliding_window": encoder_window, **size,
    }  # fmt: skip
    text = {
        "model_type": "voxtral_realtime_text", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_key_value_heads": 2, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, **size,
        "sliding_window": decoder_window, "tie_word_embeddings": True,
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 11,
    }  # fmt: skip
    config = VoxtralRealtimeConfig(audio_config=audio, text_config=text, tie_word_embeddings=True)
    model = VoxtralRealtimeForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=11, do_sample=False)
    return model


@torch.no_grad()
def randomise(model: Any, seed: int) -> None:
    """Sharp attention that is heard: history must matter.  A table of positions stays what it is."""
    gains = {"q_proj": 4.0, "k_proj": 4.0, "o_proj": 3.0, "out_proj": 2.0, "down_proj": 2.0}
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        if "embed_positions" in name:
            continue
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.copy_(0.1 * noise + (1 if name.endswith("weight") else 0))
        elif "embed_tokens" in name or "lm_head" in name:
            weight.copy_(noise)
        else:
            gain = next((gain for part, gain in gains.items() if part in name), 1.0)
            weight.copy_(noise * gain / math.sqrt(weight[0].numel()))


@torch.no_grad()
def _calibrate(model: Any, processor: Any, seed: int) -> None:
    """Takes what is constant out of the audio and the last hidden state; then scales the rows of PAD and WORD."""
    inner, vocabulary = model.model, model.model.language_model.embed_tokens.weight
    mel = processor(speechlike(8.0, 1000 + seed), return_tensors="pt", sampling_rate=RATE)["input_features"]
    frames = mel.shape[-1] // 8
    audio = inner.audio_tower(input_features=mel).last_hidden_state[0].reshape(frames, -1)[32:]
    drop_mean(inner.multi_modal_projector.linear_1.weight, audio)
    inner.multi_modal_projector.linear_2.weight.mul_(3.0)
    vocabulary[:SPECIAL] = 0
    vocabulary[SPECIAL:] *= 0.5
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(SPECIAL, VOCABULARY, (1, frames), generator=generator)
    hidden = inner(input_ids=token_ids, input_features=mel, num_delay_tokens=6).last_hidden_state[0, 39:]
    drop_mean(vocabulary[SPECIAL:], hidden)
    best, mean = (hidden @ vocabulary.T).amax(1), hidden.mean(0)
    vocabulary[PAD] = mean / mean.dot(mean) * best.quantile(0.55)
    word = torch.randn(vocabulary.shape[1], generator=generator)
    word -= mean * (word @ mean) / mean.dot(mean)
    vocabulary[WORD] = word * best.median() / (hidden @ word).quantile(0.85)
    prompt = torch.tensor([[BOS] + [PAD] * 38])
    for _ in range(20):  # both rows are inputs too, so settle their scale on real runs
        given = {"input_ids": prompt, "input_features": mel, "num_delay_tokens": 6, "max_new_tokens": frames - 39}
        out = model.generate(**given, do_sample=False, eos_token_id=None)
        off = 0
        for row, low, high in ((PAD, 0.25, 0.65), (WORD, 0.04, 0.25)):
            share = (out[0, 39:] == row).float().mean()
            vocabulary[row] *= 0.93 if share >= high else 1.07 if share <= low else 1.0
            off += not low < share < high
        if not off:
            break


def drop_mean(weight: torch.Tensor, x: torch.Tensor) -> None:
    """The rows of `weight` become orthogonal to the mean of x."""
    mean = x.mean(0)
    weight.sub_(torch.outer(weight @ mean, mean) / mean.dot(mean))


@dataclass(frozen=True)
class Reference:
    """transformers' own model and processor, unmodified."""

    model: Any
    processor: Any

    @torch.inference_mode()
    def token_ids(self, samples: Samples, delay: int = 6) -> list[int]:
        """What `generate()` says of a whole clip, one id per frame from the first that is not given; `delay` in
        frames.  The end-of-text token is an id like any other: it must not end a live stream."""
        left, right = 32 * FRAME, -len(samples) % FRAME + (delay + 1 + 10) * FRAME
        whole = np.concatenate([np.zeros(left, np.float32), samples, np.zeros(right, np.float32)])
        mel = self.processor.feature_extractor(whole, return_tensors="pt", sampling_rate=RATE).input_features
        prompt = torch.tensor([[BOS] + [PAD] * (32 + delay)])
        given = {"input_ids": prompt, "input_features": mel, "num_delay_tokens": delay}
        given["max_new_tokens"] = mel.shape[-1] // 8 - prompt.shape[1]
        out = self.model.generate(**given, do_sample=False, eos_token_id=None)[0].tolist()
        return list(out[prompt.shape[1] :])

    def text(self, token_ids: list[int]) -> str:
        """One decode of all ids."""
        tekken = self.processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer
        return b"".join(tekken.id_to_byte_piece(each) for each in token_ids).decode("utf-8", "replace")


@cache
def reference(seed: int, encoder_window: int = 200, decoder_window: int = 64) -> Reference:
    from transformers import AutoProcessor, VoxtralRealtimeForConditionalGeneration

    path = folder(seed, encoder_window, decoder_window)
    model = VoxtralRealtimeForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    return Reference(model, AutoProcessor.from_pretrained(path))
