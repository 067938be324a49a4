"""Says what is wrong with a client's input, in the words and codes of the API.  Step 5.

Pure.  A part of `shared.events`.  It knows how a validator's message names a field, and where the fields of
the beta API have gone; not what any field means.
"""

from __future__ import annotations

from collections.abc import Sequence

QUOTED = 1000  # characters of an error message, whatever a client sent
ID = 512  # characters of an id of a client's
SHOWN = 20  # fields that one message names
NAME = 80  # characters of a field's name: a client may have made it up

# Where the fields of the beta API are in today's; "": nowhere.  Below `session` and, where they were, below `response`.
MOVED = {
    "session.modalities": "session.output_modalities",
    "session.voice": "session.audio.output.voice",
    "session.speed": "session.audio.output.speed",
    "session.input_audio_format": "session.audio.input.format",
    "session.output_audio_format": "session.audio.output.format",
    "session.input_audio_transcription": "session.audio.input.transcription",
    "session.input_audio_noise_reduction": "session.audio.input.noise_reduction",
    "session.turn_detection": "session.audio.input.turn_detection",
    "session.max_response_output_tokens": "session.max_output_tokens",
    "session.temperature": "",
    "session.client_secret": "",
    "response.modalities": "response.output_modalities",
    "response.voice": "response.audio.output.voice",
    "response.output_audio_format": "response.audio.output.format",
    "response.max_response_output_tokens": "response.max_output_tokens",
    "response.temperature": "",
}
OFF = ("turn_detection", "input_audio_transcription", "input_audio_noise_reduction")  # null switched them off
MOVED_EVENTS = {"transcription_session.update": "session.update with session.type 'transcription'"}


class WireError(Exception):
    """Input that is no valid event, or asks for something impossible; it becomes an `error` event and changes nothing.

    `skipped`: the id of a refused item, and of the item that it was to follow; later items may name it."""

    def __init__(self, code: str, message: str, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message)
        self.code, self.event_id = code, event_id
        self.message, self.param = _short(message, QUOTED), param and _short(param, QUOTED // 4)
        self.skipped: tuple[str, str | None] | None = None


def _short(text: str, most: int) -> str:
    """Shortens a message that may quote the whole of a client's input."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def refuse_moved(unknown: Sequence[str]) -> None:
    """Raises WireError if fields of the beta API are among these; it names all of them and their new places."""
    found = [path for path in unknown if path in MOVED]
    if found:
        places = "; ".join(f"'{path}' is now '{MOVED[path]}'" if MOVED[path] else f"'{path}' is gone" for path in found)
        message = f"These fields belong to the beta API, which voxd does not support: {places}. Nothing was applied."
        raise WireError("unknown_parameter", message, found[0])


def named(paths: Sequence[str]) -> list[str]:
    """The first of these paths, as many as one message shows, each shortened."""
    return [path if len(path) <= NAME else path[: NAME - 1] + "…" for path in paths[:SHOWN]]


def explain_value(text: str, event_id: str | None, prefix: str = "") -> WireError:
    """A msgspec validation message -> the wire error for it; `prefix` is put before the parameter's path."""
    where = field_of(text)
    what = text.split(" - at `")[0]
    if "missing required field" in what:
        name = what.split("`")[1]
        param = ".".join(p for p in (prefix, where, name) if p)
        return WireError("missing_required_parameter", f"Missing required parameter: '{param}'.", param, event_id)
    param = ".".join(p for p in (prefix, where) if p)
    of = f" for '{param}'" if param else ""
    return WireError("invalid_value", f"Invalid value{of}: {what}.", param or None, event_id)


def field_of(text: str) -> str:
    """`… - at `$.session.audio`` -> `session.audio`; "" at the top."""
    _, _, path = text.partition(" - at `$")
    return path.rstrip("`").removeprefix(".").replace("[...]", "")
