"""`voxd verify MODEL`: counts the tokens on which it and transformers' `generate()` agree.  Not in the packet's path.

Both run on the same weights in this process.  The engine is fed what `generate()` said, so that one difference does not
become a hundred; the clips go through it together, as streams would.  In fp32 all tokens agree.  In bf16 a batch rounds
differently from a single clip: a difference counts only where `generate()` itself was sure, its two best tokens being
at least MARGIN apart.

It knows the engine's model and its runs; not the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.audio import RATE, Float32, float_to_pcm16, pcm16_to_float
from shared.audio_file import read_whole
from voxd.engine.gpu.batch import Row
from voxd.engine.realtime.build import build
from voxd.engine.realtime.interface import RealtimeDevice, RealtimeOptions
from voxd.engine.realtime.model import RealtimeCheckpoint
from voxd.engine.realtime.runs import FRAME, SPAN, Form, Run

MARGIN = 0.1  # of logits
LONGEST = 60 * RATE  # of a clip: `generate()` keeps all logits


@dataclass(frozen=True, slots=True)
class SpeechClip:
    """float32 [n] at 16 kHz, whole steps of int16: what both sides hear is the same bits."""

    name: str
    samples: Float32

    @classmethod
    def read(cls, path: Path) -> SpeechClip:
        """Reads the first minute of a clip.  Raises Unreadable."""
        return cls(path.name, pcm16_to_float(read_whole(path, LONGEST)))

    @classmethod
    def two(cls, seed: int) -> list[SpeechClip]:
        """Two synthetic clips, for a run without files."""
        return [cls.synthetic(seed), cls.synthetic(seed + 1, 7.5)]

    @classmethod
    def synthetic(cls, seed: int, seconds: float = 12.0) -> SpeechClip:
        """A gliding hum in bursts like syllables; no words, but a model that agrees on it agrees."""
        rng, at = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
        phase = (
            2 * np.pi * np.cumsum(120 + 40 * rng.random() + 30 * np.sin(2 * np.pi * (0.5 + rng.random()) * at)) / RATE
        )
        voice = np.sum([np.sin(n * phase + 6 * rng.random()) / n for n in range(1, 12)], axis=0)
        bursts = np.sin(2 * np.pi * (2 + 2 * rng.random()) * at) > -0.3
        wave = 0.1 * voice * bursts + 0.003 * rng.standard_normal(at.size)
        return cls(f"synthetic sound, seed {seed}", pcm16_to_float(float_to_pcm16(wave.astype(np.float32))))


@dataclass(frozen=True, slots=True)
class Reference:
    """The tokens of `generate()`, and how far each was ahead of the second best."""

    token_ids: list[int]
    margins: list[float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the tokens of one clip agree."""

    name: str
    tokens: int
    agree: int
    undecided: int  # how many of the others `generate()` was not sure about

    @property
    def holds(self) -> bool:
        return self.agree + self.undecided == self.tokens

    def __str__(self) -> str:
        rest = self.tokens - self.agree
        if not rest:
            return f"{self.name}: all {self.tokens} tokens agree"
        why = f"; at {self.undecided} of the others transformers itself is undecided (margin below {MARGIN})"
        return f"{self.name}: {self.agree} of {self.tokens} tokens agree{why}"


@torch.inference_mode()
def refer(checkpoint: RealtimeCheckpoint, form: Form, clip: SpeechClip) -> Reference:
    """The clip between silences, as transformers' processor pads it."""
    model = checkpoint.model
    after = -clip.samples.size % FRAME + (form.delay + form.tail + 1) * FRAME
    whole = np.pad(clip.samples, (form.left * FRAME, after))
    mel = checkpoint.extractor(whole, return_tensors="pt", sampling_rate=RATE).input_features
    prompt = torch.tensor([[form.bos] + [form.pad] * form.first], device=model.device)
    out = model.generate(
        input_ids=prompt,
        input_features=mel.to(model.device, model.dtype),
        num_delay_tokens=form.delay,
        max_new_tokens=mel.shape[-1] // 8 - prompt.shape[1],
        do_sample=False,
        eos_token_id=None,  # a live stream does not end with it
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = [logits[0].float().topk(2).values for logits in out.logits]
    return Reference(out.sequences[0, prompt.shape[1] :].tolist(), [float(two[0] - two[1]) for two in best])


def replay(device: RealtimeDevice, clips: Sequence[SpeechClip], references: Sequence[Reference]) -> list[list[int]]:
    """The engine's token at each position, given what `generate()` said before it."""
    runs = [Run(0, device.form) for _ in clips]
    said: list[list[int]] = [[] for _ in clips]
    for run, clip in zip(runs, clips, strict=True):
        run.slot = device.slots.take()
        device.join(run.slot, run.form.delay)
        run.end(clip.samples.size)
    while open_runs := [i for i, run in enumerate(runs) if run.ready(0, clips[i].samples.size)]:
        for some in _batches(open_runs, device.runner.largest):
            flight = device.runner.submit([_row(runs[i], clips[i]) for i in some])
            for i, token in zip(some, flight.token_ids(), strict=True):
                run = runs[i]
                if run.n >= run.form.first:
                    said[i].append(token)
                run.take()
                run.hear(references[i].token_ids[len(run.out)] if run.n > run.form.first else token, text=True)
    for run in runs:
        device.slots.give(run.slot or 0)
    return said


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _row(run: Run, clip: SpeechClip) -> Row:
    low, high = max(run.span, 0), min(run.span + SPAN, clip.samples.size)
    pcm = float_to_pcm16(clip.samples[low:high]) if low < high else b""
    body = (bytes(2 * (low - run.span)) if low < high else b"") + pcm
    return Row((run.slot or 0, run.n, run.token, run.form.delay), body.ljust(2 * SPAN, b"\0"))


def compare(name: str, said: list[int], reference: Reference) -> Agreement:
    """Compares token by token."""
    places = list(zip(said, reference.token_ids, reference.margins, strict=True))
    agree = sum(mine == other for mine, other, _ in places)
    undecided = sum(mine != other and margin < MARGIN for mine, other, margin in places)
    return Agreement(name, len(places), agree, undecided)


@torch.inference_mode()
def verify(checkpoint: RealtimeCheckpoint, clips: Sequence[SpeechClip], say: Callable[[str], None]) -> list[Agreement]:
    """Compares all clips; takes the checkpoint apart."""
    special: Any = checkpoint.special
    form = Form(special.bos, special.pad, special.left, special.tail, special.delay)
    references = []
    for clip in clips:
        say(f"transformers' generate(): {clip.name}")
        references.append(refer(checkpoint, form, clip))
    device = build(checkpoint, RealtimeOptions(max_streams=max(8, len(clips))), say, eager=False)
    for note in device.notes:
        say(note)
    said = replay(device, clips, references)
    return [compare(clip.name, token_ids, ref) for clip, token_ids, ref in zip(clips, said, references, strict=True)]
