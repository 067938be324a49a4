"""Lays out a conversation as the prompt that Voxtral Mini was trained on.  Step 8.

Pure: turns in, symbols out.  It knows no cache and no audio, only window numbers.

A prompt is a list of *symbols*, one per position: a token id, or for audio `audio(window, index)`, a negative number
that is the same only for the same embedding of the same window.  So two prompts begin alike exactly where their lists
do, and what a cache holds of one serves the other that far.

The layouts are those of mistral-common's tokenizer v7, which both released models use; it refuses a system prompt
beside audio, so instructions are then put in front of the first user turn.

    <s>[INST][BEGIN_AUDIO][AUDIO]x375[/INST]Hi there.</s>[INST]What is said?[/INST]
    <s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]hello[/INST]
    <s>[INST][BEGIN_AUDIO][AUDIO]x375[/INST]lang:en[TRANSCRIBE]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from voxd.engine.mini.interface import PER_WINDOW, SpecialTokens, audio, language_prefix

Role = Literal["system", "user", "assistant"]
BETWEEN = "\n\n"  # mistral-common joins neighbouring texts of one role with it


@dataclass(frozen=True, slots=True)
class AudioPart:
    """Audio in a prompt: its windows, by number."""

    windows: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many symbols it takes."""
        return 1 + PER_WINDOW * len(self.windows)


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Text as the token ids that it was generated with; encoding the text again might give others."""

    token_ids: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many symbols it takes."""
        return len(self.token_ids)


Part = str | AudioPart | TokenIds


@dataclass(frozen=True, slots=True)
class PromptLine:
    """What one role says without being interrupted by another role."""

    role: Role
    parts: tuple[Part, ...]


def conversation_prompt(special: SpecialTokens, lines: Iterable[PromptLine], *, open_ended: bool = False) -> list[int]:
    """The symbols of a conversation that is to be answered.

    Consecutive lines of one role are merged.  `open_ended`: the last line is still being spoken, so nothing follows
    its last part."""
    merged = list(_merge(lines))
    instructions: list[Part] = []
    while merged and merged[0].role == "system":
        instructions += merged.pop(0).parts
    merged = list(_merge(PromptLine("user", line.parts) if line.role == "system" else line for line in merged))
    if not merged or merged[-1].role == "assistant":
        merged.append(PromptLine("user", ()))  # nothing was asked, so the model begins
    symbols = [special.bos]
    if instructions:
        if any(isinstance(part, AudioPart) for line in merged for part in line.parts):
            first = next(i for i, line in enumerate(merged) if line.role == "user")
            merged[first] = PromptLine("user", (*instructions, *merged[first].parts))
        else:
            symbols += [special.begin_system, *_parts(special, instructions), special.end_system]
    for line in merged:
        if line.role == "user":
            symbols += [special.begin_inst, *_parts(special, line.parts), special.end_inst]
        else:
            symbols += [*_parts(special, line.parts), special.eos]
    if open_ended:
        symbols.pop()
    return symbols


def why_not(special: SpecialTokens, language: str | None) -> str | None:
    """Why speech in this language cannot be transcribed; None: it can."""
    if special.transcribe is None:
        return "this model was not made for transcription: choose another engine for it"
    if language and not re.fullmatch("[a-z]{2}", language):  # mistral-common's requests take no other
        return f"{language[:20]!r} is no language: give two letters of ISO 639-1, such as 'en', or none"
    return None


def transcription_prompt(special: SpecialTokens, clip: AudioPart, language: str | None) -> list[int]:
    """The symbols that ask for the words of this audio.  `language`: ISO 639-1; None: the model decides."""
    assert special.transcribe is not None, "Open is refused before"
    return [
        special.bos,
        special.begin_inst,
        *_parts(special, (clip,)),
        special.end_inst,
        *(special.encode(language_prefix(language)) if language else ()),
        special.transcribe,
    ]


def shared(left: Sequence[int], right: Sequence[int]) -> int:
    """How many symbols both begin with."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))


def _merge(lines: Iterable[PromptLine]) -> Iterator[PromptLine]:
    role: Role | None = None
    parts: list[Part] = []
    for line in lines:
        if line.role != role:
            if role is not None:
                yield PromptLine(role, tuple(parts))
            role, parts = line.role, []
        parts += line.parts
    if role is not None:
        yield PromptLine(role, tuple(parts))


def _parts(special: SpecialTokens, parts: Iterable[Part]) -> Iterator[int]:
    texts: list[str] = []
    for part in (*parts, None):
        if isinstance(part, str):
            texts += [part] if part else []
            continue
        if texts:  # encoded as one text: a token may span the place where two texts are joined
            yield from special.encode(BETWEEN.join(texts))
            texts = []
        if isinstance(part, AudioPart):
            yield special.begin_audio
            for window in part.windows:
                yield from (audio(window, index) for index in range(PER_WINDOW))
        elif part is not None:
            yield from part.token_ids
