"""Tiny Voxtral Mini checkpoints with random weights, and what transformers itself makes of conversations with them.

As in `tiny_voxtral`: what fixes shapes in time is the real thing (16 kHz, 128 mel bins, windows of 30 s that become 375
tokens), widths and depths are small.  Greedy output depends on the audio, on the text and on the turns before, and
that is asserted for every checkpoint that is made.
"""

from __future__ import annotations

import atexit
import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Literal

import soundfile
import torch

from tests.support.tiny_voxtral import (
    BOS,
    EOS,
    RATE,
    SPECIAL,
    VOCABULARY,
    Samples,
    drop_mean,
    randomise,
    speechlike,
    write_tokenizer,
)

BEGIN_INST, END_INST, AUDIO, BEGIN_AUDIO, TRANSCRIBE = 3, 4, 24, 25, 34
PER_WINDOW = 375
Turn = tuple[Literal["system", "user", "assistant"], Sequence[Samples | str]]  # who, and what in which order


@cache
def folder(seed: int, *, ends: bool = False) -> Path:
    """A checkpoint; made once per process, and gone with it.  `ends`: texts end by themselves, after some dozen tokens;
    else never."""
    from transformers import VoxtralProcessor, WhisperFeatureExtractor
    from transformers.tokenization_mistral_common import MistralCommonBackend

    torch.set_num_threads(1)
    path = Path(mkdtemp(prefix="tiny-mini-"))
    atexit.register(rmtree, path, ignore_errors=True)
    write_tokenizer(path / "tekken.json", {TRANSCRIBE: "[TRANSCRIBE]"}, {"chunk_length_s": 30.0})
    processor = VoxtralProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=128),
        tokenizer=MistralCommonBackend(path / "tekken.json"),
    )
    model = _model()
    randomise(model, seed)
    hidden = _calibrate(model, processor, seed)
    _check(Reference(model, processor))
    if ends:
        _let_end(Reference(model, processor), hidden, seed)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def config() -> Any:
    from transformers import VoxtralConfig

    audio = {
        "model_type": "voxtral_encoder", "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_mel_bins": 128,
    }  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 160,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e8},
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 11,
    }  # fmt: skip
    return VoxtralConfig(audio_config=audio, text_config=text, audio_token_id=AUDIO, projector_hidden_act="gelu")


def _model() -> Any:
    from transformers import GenerationConfig, VoxtralForConditionalGeneration

    model = VoxtralForConditionalGeneration(config()).eval()
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=11, do_sample=False)
    return model


@torch.no_grad()
def _calibrate(model: Any, processor: Any, seed: int) -> torch.Tensor:
    """Takes what is constant out of the audio and of the last hidden state; control tokens are never said.  Returns
    some of those states."""
    from transformers.models.whisper.modeling_whisper import sinusoids

    for name, weight in model.named_parameters():  # less sharp: 1500 frames at once make much of the last bit
        if "audio_tower" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
            weight.mul_(0.5)
    inner, head = model.model, model.lm_head.weight
    table = inner.audio_tower.embed_positions.weight
    table.copy_(sinusoids(*table.shape))
    mel = features(processor, [speechlike(20.0, 1000 + seed)])
    heard = inner.audio_tower(mel).last_hidden_state.reshape(PER_WINDOW, -1)
    drop_mean(inner.multi_modal_projector.linear_1.weight, heard)
    inner.multi_modal_projector.linear_2.weight.mul_(3.0)
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(SPECIAL, VOCABULARY, (1, 64), generator=generator)
    prompt = torch.tensor([[BOS, BEGIN_INST, BEGIN_AUDIO, *[AUDIO] * PER_WINDOW, END_INST]])
    hidden = inner(input_ids=torch.cat([prompt, text], 1), input_features=mel).last_hidden_state[0, -64:]
    head[:SPECIAL] = 0
    drop_mean(head[SPECIAL:], hidden)
    found: torch.Tensor = hidden
    return found


@torch.no_grad()
def _let_end(reference: Reference, hidden: torch.Tensor, seed: int) -> None:
    """Draws a row for the end of text until it ends some texts after more than a few tokens and soon enough."""
    head, generator = reference.model.lm_head.weight, torch.Generator().manual_seed(seed)
    best, mean = (hidden @ head.T).amax(1), hidden.mean(0)
    prompt = [BOS, BEGIN_INST, BEGIN_AUDIO, *[AUDIO] * PER_WINDOW, END_INST]
    for _ in range(50):
        row = torch.randn(head.shape[1], generator=generator)
        row -= mean * (row @ mean) / mean.dot(mean)
        head[EOS] = row / ((hidden @ row) / best).quantile(0.95)
        said = (reference.token_ids(prompt, [speechlike(3.0, clip)], 100, eos=EOS) for clip in range(1, 4))
        if all(4 < len(token_ids) < 100 for token_ids in said):
            return
    raise AssertionError(f"no end was found for the texts of seed {seed}")


def _check(reference: Reference) -> None:
    one, other = speechlike(3.0, 1), speechlike(3.0, 2)
    clips_of = {"audio": [one], "other audio": [other], "text": [one], "turns": [one, other]}
    text = [BOS, BEGIN_INST, BEGIN_AUDIO, *[AUDIO] * PER_WINDOW]
    prompts = {
        "audio": [*text, END_INST],
        "other audio": [*text, END_INST],
        "text": [*text, 1100, 1200, END_INST],
        "turns": [*text, END_INST, 1300, EOS, *text[1:], END_INST],
    }
    said = {name: reference.token_ids(prompts[name], clips, 12) for name, clips in clips_of.items()}
    said["last turn alone"] = said["other audio"]
    assert len({tuple(token_ids) for token_ids in said.values()}) == 4, said
    assert all(len(set(token_ids)) > 4 and min(token_ids) >= SPECIAL for token_ids in said.values()), said


def features(processor: Any, clips: Sequence[Samples]) -> torch.Tensor:
    """What transformers' processor makes of clips: float32 [windows of 30 s, 128, 3000]."""
    given = {"sampling_rate": RATE, "padding": True, "truncation": False, "pad_to_multiple_of": 30 * RATE}
    found: torch.Tensor = processor._retrieve_input_features(list(clips), 3000, return_tensors="pt", **given)
    return found


@dataclass(frozen=True)
class Reference:
    """transformers' own model and processor, unmodified."""

    model: Any
    processor: Any

    @torch.inference_mode()
    def token_ids(self, prompt_ids: list[int], clips: Sequence[Samples], new: int, eos: int | None = None) -> list[int]:
        """What greedy `generate()` says after a prompt, at most `new` ids; `eos` ends it and is the last of them."""
        heard = {"input_features": features(self.processor, clips)} if clips else {}
        given = {"input_ids": torch.tensor([prompt_ids]), "max_new_tokens": new, "do_sample": False, **heard}
        out = self.model.generate(**given, eos_token_id=eos, pad_token_id=11)[0].tolist()
        return list(out[len(prompt_ids) :])

    def prompt(self, messages: Sequence[Turn]) -> list[int]:
        """The ids of a conversation that ends with the user; raises mistral-common's errors for what it refuses."""
        conversation = [{"role": role, "content": _content(role, parts)} for role, parts in messages]
        found = self.processor.apply_chat_template(conversation)["input_ids"][0].tolist()
        return list(found)

    def transcription(self, clip: Samples, language: str | None = None) -> list[int]:
        """The ids of a request to write down what is said."""
        given = {"audio": [clip], "format": ["WAV"], "language": language, "sampling_rate": RATE}
        found = self.processor.apply_transcription_request(model_id="tiny", **given)["input_ids"][0].tolist()
        return list(found)

    def text(self, token_ids: Sequence[int]) -> str:
        """One decode of all ids."""
        tekken = self.processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer
        return b"".join(tekken.id_to_byte_piece(each) for each in token_ids).decode("utf-8", "replace")

    def encode(self, text: str) -> list[int]:
        """A text without any framing."""
        tekken = self.processor.tokenizer.tokenizer.instruct_tokenizer.tokenizer
        return list(tekken.encode(text, bos=False, eos=False))


def _content(role: str, parts: Sequence[Samples | str]) -> str | list[dict[str, str]]:
    if role != "user":
        return "".join(str(part) for part in parts)
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "audio", "base64": _wav(part)}
        for part in parts
    ]


def _wav(samples: Samples) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, subtype="PCM_16", format="WAV")
    return base64.b64encode(buffer.getvalue()).decode()


@cache
def reference(seed: int, *, ends: bool = False) -> Reference:
    from transformers import AutoProcessor, VoxtralForConditionalGeneration

    path = folder(seed, ends=ends)
    model = VoxtralForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    return Reference(model, AutoProcessor.from_pretrained(path))
