"""The request to transcribe a file: the fields of `POST /v1/audio/transcriptions`, by the API's own names.  Before step
5, for files.

Pure.  Every published field is known here: what has an effect is a session configuration or a form of the answer, and
what has none says so in its annotation (`shared.given.Idle`), so that the client can be told.  It does not know HTTP,
sound or engines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.events import Json
from shared.given import Idle, given, idle
from shared.languages import language_of
from shared.refusals import WireError, field_of, named
from shared.session_config import Ms

FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
STREAMED = ("json", "text", "diarized_json")
_LISTS = frozenset(
    {"languages", "keywords", "timestamp_granularities", "include", "known_speaker_names", "known_speaker_references"}
)
_SPEAKERS = Idle("no engine here tells speakers apart")
_RIGHT = {  # what may stand in a field, for who has something else in it
    "response_format": f"Supported values: {', '.join(FORMATS)}",
    "stream": "Supported values: true, false",
    "temperature": "It is a number from 0 to 1",
    "timestamp_granularities": "Supported values: segment, word",
    "chunking_strategy": "It is auto, or an object with the type server_vad, as JSON or as chunking_strategy[type]",
    "threshold": "It is a number from 0 to 1",
    "prefix_padding_ms": "It is a whole number of milliseconds",
    "silence_duration_ms": "It is a whole number of milliseconds",
}
_TURNS = "session.audio.input.turn_detection"
_NAME = re.compile(r"([^\[\]]+)(?:\[([^\[\]]*)\])?")


class Chunking(msgspec.Struct, frozen=True, kw_only=True):
    """How turns are found in the file; what is absent is the server's own choice."""

    type: Literal["server_vad"]
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | UnsetType = UNSET
    prefix_padding_ms: Ms | UnsetType = UNSET
    silence_duration_ms: Ms | UnsetType = UNSET


class Fields(msgspec.Struct, frozen=True, kw_only=True):
    """The form, but for the file.  `model` may be any: the configured transcriber does the work."""

    model: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"
    stream: bool = False
    language: str = ""
    languages: tuple[str, ...] = ()
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    temperature: Annotated[Annotated[float, Meta(ge=0.0, le=1.0)], Idle("engines write the likeliest words")] = 0.0
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    include: Annotated[tuple[str, ...], Idle("no engine tells how sure it is of a word")] = ()
    chunking_strategy: Literal["auto"] | Chunking = "auto"
    known_speaker_names: Annotated[tuple[str, ...], _SPEAKERS] = ()
    known_speaker_references: Annotated[tuple[str, ...], _SPEAKERS] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """`sound`: of the session configuration, what stands below `audio.input` beside the format.  `language`: a code, or
    None for whatever is spoken.  `notes`: sentences about what is not as asked for."""

    format: str
    stream: bool
    language: str | None
    sound: Json
    notes: tuple[str, ...]
    granularities: tuple[str, ...] = ()  # of times: word, segment


def read(pairs: Iterable[tuple[str, str]]) -> Wanted:
    """The fields of a form in their order.  Raises WireError for a value that its field cannot have."""
    unknown: list[str] = []
    tree = given(_tree(pairs), Fields, "", unknown)
    try:
        asked = msgspec.convert(tree, Fields, strict=False)
    except msgspec.ValidationError as error:
        raise _wrong(field_of(str(error)), tree) from None
    if asked.stream and asked.response_format not in STREAMED:
        found = f"Invalid value for 'response_format': {asked.response_format!r}."
        right = f"Supported values when stream is true: {', '.join(STREAMED)}."
        raise WireError("invalid_value", f"{found} {right}", "response_format")
    language = _language(asked.language, "language")
    several = [code for at, each in enumerate(asked.languages) if (code := _language(each, f"languages[{at}]"))]
    if language is None and len(several) == 1:
        language = several[0]
    hints = {"language": language, "languages": several, "prompt": asked.prompt, "keywords": list(asked.keywords)}
    sound: Json = {"transcription": {name: value for name, value in hints.items() if value}}
    if isinstance(asked.chunking_strategy, Chunking):
        sound["turn_detection"] = msgspec.to_builtins(asked.chunking_strategy)
    notes = tuple(_notes(asked, unknown))
    return Wanted(asked.response_format, asked.stream, language, sound, notes, asked.timestamp_granularities)


def in_its_words(text: str) -> str:
    """A path in a session configuration, or a sentence about one, as a client reads it who has sent a form."""
    text = text.replace("session.audio.input.transcription.", "").replace(_TURNS, "chunking_strategy")
    return text.removesuffix(" Nothing of this update was applied.")


def _notes(asked: Fields, unknown: Sequence[str]) -> Iterable[str]:
    yield from (f"'{path.removeprefix('.')}' has no effect here: {why}" for path, why in idle(asked, ""))
    if asked.timestamp_granularities and asked.response_format != "verbose_json":
        yield "'timestamp_granularities' has an effect with the response_format verbose_json only"
    if asked.response_format == "diarized_json":
        yield "no engine here tells speakers apart: all is of one speaker, A"
    if unknown:
        yield f"not known here and left out: {', '.join(named(unknown))}"


def _language(text: str, param: str) -> str | None:
    try:
        return language_of(text)
    except ValueError as error:
        raise WireError("invalid_value", f"Invalid value for '{param}': {error}.", param) from None


def _tree(pairs: Iterable[tuple[str, str]]) -> Json:
    """`a=1, b[]=2, c[d]=3` -> {a: 1, b: [2], c: {d: 3}}.  An empty value is none, as clients write null.  Raises
    WireError."""
    tree: Json = {}
    for whole, value in pairs:
        match = _NAME.fullmatch(whole)
        name, inner = match.groups() if match else (whole, None)
        if name in _LISTS:
            tree.setdefault(name, []).append(value)
        elif not value:
            continue
        elif inner:
            group = tree.setdefault(name, {})
            if not isinstance(group, dict) or group.setdefault(inner, value) != value:
                raise _twice(whole)
        elif tree.setdefault(name, taken := _taken(name, value)) != taken:
            raise _twice(whole)
    return tree


def _taken(name: str, value: str) -> Any:
    """The only field that may be an object, written as JSON; anything else is text."""
    if name != "chunking_strategy" or not value.lstrip().startswith("{"):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value


def _twice(name: str) -> WireError:
    (shown,) = named([name])
    return WireError("invalid_value", f"'{shown}' is given twice, with different values: give it once.", shown)


def _wrong(path: str, tree: Json) -> WireError:
    path = path.partition("[")[0]
    name, _, inner = path.partition(".")
    found: Any = tree.get(name)
    if isinstance(found, dict) and inner in found:
        found = found[inner]
    right = _RIGHT.get(inner) or _RIGHT.get(name) or "It is text"
    return WireError("invalid_value", f"Invalid value for '{path}': {str(found)[:60]!r}. {right}.", path)
