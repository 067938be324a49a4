"""`voxd verify` for Voxtral Mini: compares it with `generate()`, token by token.  Not in the packet's path.

For every clip: alone, with a question in text, as the second turn after another clip and its answer, and as something
to be written down.  As for Voxtral Realtime (`verify`), the device is fed what `generate()` said, so one difference
does not become a hundred, and all prompts answer in one batch; where `generate()` itself was not sure, a difference
does not count.

It knows the engine's device, prompts and windows; not the engine's conversations nor the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch

from shared.audio import RATE, float_to_pcm16
from voxd.engine.mini.build import build
from voxd.engine.mini.interface import (
    ENCODER_HEAD,
    HEAD,
    OF_PAGE,
    PAGE,
    PER_WINDOW,
    POSITION,
    SLOT,
    SOURCE,
    SPAN,
    TOP_P,
    WANTED,
    WINDOW,
    MiniDevice,
    MiniOptions,
    SpecialTokens,
    audio,
    bits,
    extremes,
)
from voxd.engine.mini.model import MiniCheckpoint
from voxd.engine.mini.prompt import AudioPart, PromptLine, TokenIds, conversation_prompt, transcription_prompt
from voxd.engine.mini.windows import Window, WindowedAudio, write_samples
from voxd.lab.verify_realtime import Agreement, Reference, SpeechClip, compare

NEW = 48  # tokens of each answer
QUESTION = "What is said?"
Table = np.ndarray[tuple[int, int], np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt.  `symbols` name windows by number, counted through `clips`."""

    name: str
    clips: tuple[SpeechClip, ...]
    symbols: list[int]

    def token_ids(self, placeholder: int) -> list[int]:
        """The token ids as transformers reads the prompt."""
        return [symbol if symbol >= 0 else placeholder for symbol in self.symbols]


def windows_of(clips: Sequence[SpeechClip]) -> list[AudioPart]:
    """The windows of each, numbered through."""
    numbers = count()
    return [AudioPart(tuple(islice(numbers, max(1, -(-clip.samples.size // WINDOW))))) for clip in clips]


# ── transformers ────────────────────────────────────────────────────────────────────────────────────────────────────


def features(checkpoint: MiniCheckpoint, clips: Sequence[SpeechClip]) -> torch.Tensor:
    """The features as transformers' processor makes them: [windows, mels, 3000]."""
    found = []
    for clip in clips:
        whole = np.pad(clip.samples, (0, -clip.samples.size % WINDOW if clip.samples.size else WINDOW))
        mel = checkpoint.extractor(whole, return_tensors="pt", sampling_rate=RATE, truncation=False).input_features[0]
        found.append(mel.reshape(mel.shape[0], -1, WINDOW // 160).transpose(0, 1))
    return torch.cat(found)


@torch.inference_mode()
def refer(checkpoint: MiniCheckpoint, case: Case, new: int = NEW) -> Reference:
    """The token ids that `generate()` gives."""
    model = checkpoint.model
    prompt = torch.tensor([case.token_ids(model.config.audio_token_id)], device=model.device)
    out = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        input_features=features(checkpoint, case.clips).to(model.device, model.dtype),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,  # as many tokens of each
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = [logits[0].float().topk(2).values for logits in out.logits]
    return Reference(out.sequences[0, prompt.shape[1] :].tolist(), [float(two[0] - two[1]) for two in best])


def cases(
    special: SpecialTokens, clips: Sequence[SpeechClip], say: Callable[[Case], Reference]
) -> Iterator[tuple[Case, Reference]]:
    """Yields each case with what `say` makes of it; an answer is part of a later prompt."""
    for index, clip in enumerate(clips):
        other = clips[index - 1]
        (heard,), (before, now) = windows_of([clip]), windows_of([other, clip])
        alone = Case(clip.name, (clip,), conversation_prompt(special, [PromptLine("user", (heard,))]))
        asked = conversation_prompt(special, [PromptLine("user", (heard, QUESTION))])
        yield alone, say(alone)
        with_text = Case(f"{clip.name} and text", (clip,), asked)
        answer = say(with_text)
        yield with_text, answer
        said = TokenIds(tuple(answer.token_ids[:8]))
        turns = [PromptLine("user", (before, QUESTION)), PromptLine("assistant", (said,)), PromptLine("user", (now,))]
        second = Case(f"{clip.name} as the second turn", (other, clip), conversation_prompt(special, turns))
        yield second, say(second)
        if special.transcribe is not None:
            written = Case(f"{clip.name} to be written down", (clip,), transcription_prompt(special, heard, None))
            yield written, say(written)


# ── the engine's device ─────────────────────────────────────────────────────────────────────────────────────────────


def hear(device: MiniDevice, clips: Sequence[SpeechClip]) -> dict[int, int]:
    """Number of a window -> the place of its embeddings."""
    places: dict[int, int] = {}
    for clip, heard in zip(clips, windows_of(clips), strict=True):
        pcm, windows = float_to_pcm16(clip.samples), WindowedAudio(count().__next__, lambda window: None)
        windows.end(clip.samples.size)
        while (window := windows.unasked) is not None or not windows.settle():
            if window is not None:
                number = heard.windows[window.index]
                if number not in places:
                    places[number] = device.places.take()
                _encode(device, window, places[number], pcm)
    return places


def _encode(device: MiniDevice, window: Window, place: int, pcm: bytes) -> None:
    window.asked = True
    table = np.zeros((1, ENCODER_HEAD + SPAN // 2), np.int32)
    table[0, :ENCODER_HEAD] = place, bits(window.higher)
    write_samples(window, lambda begin, end: pcm[2 * begin : 2 * end], table[0, ENCODER_HEAD:].view(np.int16))
    window.found = extremes(device.encoder.submit(table).token_ids()[0])


@dataclass(slots=True)
class ReplayedAnswer:
    """A sequence on the device, and what it is to be fed."""

    slot: int
    pages: list[int]
    length: int  # of the prompt
    fed: list[int]
    said: list[int]


def rows(slot: int, pages: Sequence[int], first: int, sources: Sequence[int]) -> Table:
    """Rows of the device for positions from `first` on; the likeliest token is wanted of the last."""
    table = np.zeros((len(sources), HEAD), np.int32)
    position = np.arange(first, first + len(sources))
    table[:, SLOT], table[:, POSITION], table[:, SOURCE] = slot, position, sources
    table[:, OF_PAGE] = np.array(pages)[position // PAGE]
    table[:, TOP_P] = bits(1.0)
    table[-1, WANTED] = 1
    return table


def begin(device: MiniDevice, case: Case, reference: Reference) -> ReplayedAnswer:
    """Prefills the prompt, which gives the first token."""
    places, length = hear(device, case.clips), len(case.symbols)
    pages = [device.pages.take() for _ in range(-(-(length + len(reference.token_ids)) // PAGE))]
    answer = ReplayedAnswer(device.slots.take(), pages, length, reference.token_ids, [])
    sources = [s if s >= 0 else audio(places[(-1 - s) // PER_WINDOW], (-1 - s) % PER_WINDOW) for s in case.symbols]
    for first in range(0, length, device.prefill.largest):
        piece = sources[first : first + device.prefill.largest]
        said = device.prefill.submit(rows(answer.slot, pages, first, piece)).token_ids()
    answer.said.append(said[0])
    for place in places.values():
        device.places.give(place)
    return answer


def _next(answer: ReplayedAnswer) -> Table:
    index = len(answer.said) - 1
    return rows(answer.slot, answer.pages, answer.length + index, [answer.fed[index]])


def replay(device: MiniDevice, prompts: Sequence[tuple[Case, Reference]]) -> list[list[int]]:
    """The device's token at each position, given what `generate()` said before it."""
    answers = [begin(device, case, reference) for case, reference in prompts]
    while open_ones := [answer for answer in answers if len(answer.said) < len(answer.fed)]:
        batch = sorted(open_ones, key=lambda answer: len(answer.said))[: device.decode.largest]
        token_ids = device.decode.submit(np.concatenate([_next(answer) for answer in batch])).token_ids()
        for answer, token in zip(batch, token_ids, strict=True):
            answer.said.append(token)
    for answer in answers:
        device.slots.give(answer.slot)
        for page in answer.pages:
            device.pages.give(page)
    return [answer.said for answer in answers]


@torch.inference_mode()
def verify(checkpoint: MiniCheckpoint, clips: Sequence[SpeechClip], say: Callable[[str], None]) -> list[Agreement]:
    """Compares all prompts; takes the checkpoint apart."""

    def ask(case: Case) -> Reference:
        say(f"transformers' generate(): {case.name}")
        return refer(checkpoint, case)

    prompts: list[Any] = list(cases(checkpoint.special, clips, ask))
    device = build(checkpoint, MiniOptions(max_conversations=max(8, len(prompts))), say, eager=False)
    for note in device.notes:
        say(note)
    said = replay(device, prompts)
    return [
        compare(case.name, token_ids, reference) for (case, reference), token_ids in zip(prompts, said, strict=True)
    ]
