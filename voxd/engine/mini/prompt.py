"""A conversation as Voxtral Mini reads it.  Pure: turns in, symbols out.  Part of step 8.

A prompt is a list of *symbols*, one per position: a token id, or for audio `audio(window, index)`, a negative number
that is the same only for the same embedding of the same window.  So two prompts begin alike exactly where their lists
do, and what a cache holds of one serves the other that far.

The layouts are those of mistral-common's tokenizer v7, which both released models use; it refuses a system prompt
beside audio, so instructions then are the first words of the first user turn.

    <s>[INST][BEGIN_AUDIO][AUDIO]x375[/INST]Hi there.</s>[INST]What is said?[/INST]
    <s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]hello[/INST]
    <s>[INST][BEGIN_AUDIO][AUDIO]x375[/INST]lang:en[TRANSCRIBE]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from voxd.engine.mini.interface import PER_WINDOW, Script, audio, language_prefix

Role = Literal["system", "user", "assistant"]
BETWEEN = "\n\n"  # mistral-common joins neighbouring texts of one role with it


@dataclass(frozen=True, slots=True)
class Clip:
    """Audio as its windows, by number."""

    windows: tuple[int, ...]

    @property
    def size(self) -> int:
        """Symbols."""
        return 1 + PER_WINDOW * len(self.windows)


@dataclass(frozen=True, slots=True)
class Ids:
    """Text that is kept as the ids that it was generated as: written down again it might become others."""

    ids: tuple[int, ...]

    @property
    def size(self) -> int:
        """Symbols."""
        return len(self.ids)


Part = str | Clip | Ids


@dataclass(frozen=True, slots=True)
class Line:
    """What one role says at a time."""

    role: Role
    parts: tuple[Part, ...]


def conversation(script: Script, lines: Iterable[Line], *, open_ended: bool = False) -> list[int]:
    """The symbols of a conversation that is to be answered.

    Lines of one role that follow each other are one.  `open_ended`: the last line is still being spoken, so nothing
    follows its last part."""
    merged = list(_merge(lines))
    instructions: list[Part] = []
    while merged and merged[0].role == "system":
        instructions += merged.pop(0).parts
    merged = list(_merge(Line("user", line.parts) if line.role == "system" else line for line in merged))
    if not merged or merged[-1].role == "assistant":
        merged.append(Line("user", ()))  # nothing was asked: the model takes the floor
    symbols = [script.bos]
    if instructions:
        if any(isinstance(part, Clip) for line in merged for part in line.parts):
            first = next(i for i, line in enumerate(merged) if line.role == "user")
            merged[first] = Line("user", (*instructions, *merged[first].parts))
        else:
            symbols += [script.begin_system, *_parts(script, instructions), script.end_system]
    for line in merged:
        if line.role == "user":
            symbols += [script.begin_inst, *_parts(script, line.parts), script.end_inst]
        else:
            symbols += [*_parts(script, line.parts), script.eos]
    if open_ended:
        symbols.pop()
    return symbols


def why_not(script: Script, language: str | None) -> str | None:
    """Why nothing can be written down in this language; None: it can."""
    if script.transcribe is None:
        return "this model was not made for transcription: choose another engine for it"
    if language and not re.fullmatch("[a-z]{2}", language):  # mistral-common's requests take no other
        return f"{language[:20]!r} is no language: give two letters of ISO 639-1, such as 'en', or none"
    return None


def transcription(script: Script, clip: Clip, language: str | None) -> list[int]:
    """The symbols that ask for the words of a clip.  `language`: ISO 639-1, None: whatever is spoken."""
    assert script.transcribe is not None, "the engine asks before"
    return [
        script.bos,
        script.begin_inst,
        *_parts(script, (clip,)),
        script.end_inst,
        *(script.encode(language_prefix(language)) if language else ()),
        script.transcribe,
    ]


def shared(left: Sequence[int], right: Sequence[int]) -> int:
    """How many symbols both begin with."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))


def _merge(lines: Iterable[Line]) -> Iterator[Line]:
    role: Role | None = None
    parts: list[Part] = []
    for line in lines:
        if line.role != role:
            if role is not None:
                yield Line(role, tuple(parts))
            role, parts = line.role, []
        parts += line.parts
    if role is not None:
        yield Line(role, tuple(parts))


def _parts(script: Script, parts: Iterable[Part]) -> Iterator[int]:
    texts: list[str] = []
    for part in (*parts, None):
        if isinstance(part, str):
            texts += [part] if part else []
            continue
        if texts:  # as one text: what joins them may be one piece with their ends
            yield from script.encode(BETWEEN.join(texts))
            texts = []
        if isinstance(part, Clip):
            yield script.begin_audio
            for window in part.windows:
                yield from (audio(window, index) for index in range(PER_WINDOW))
        elif part is not None:
            yield from part.ids
