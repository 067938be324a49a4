"""The person's own file of settings; an option on the command line goes before it.  Not in the path.

    Linux    ~/.config/voxtui/config.yaml               macOS  ~/Library/Application Support/voxtui/config.yaml
    Windows  %LOCALAPPDATA%\\voxtui\\config.yaml

It knows names, ranges and places; not what a setting does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from msgspec import Meta, Struct, structs

from shared.config import ConfigError, read_file
from shared.languages import language_of

Ms = Annotated[float, Meta(gt=0, lt=100_000)]
Transport = Literal["ws", "webrtc", "auto"]
ThemeName = Literal["dark", "light"]


class Targets(Struct, frozen=True):
    """Latencies that the person wants to stay below, ms: each is drawn as a line, and what is above it is marked."""

    ttft_user_ms: Ms = 500
    final_ms: Ms = 800


class Settings(Struct, frozen=True):
    """The keys of the file.  Each has an option of the same name, but for `targets`."""

    target: str | None = None
    language: str | None = None
    instructions: str | None = None
    silence_ms: Annotated[int, Meta(ge=160, le=10_000)] = 500
    delay_ms: Annotated[int, Meta(ge=80, le=2400, multiple_of=80)] | None = None
    device: str | int | None = None
    theme: ThemeName = "dark"
    hands_free: bool = True
    keep: bool = True
    keep_in: str | None = None  # a folder; None: the platform's
    targets: Targets = Targets()
    transport: Transport = "ws"


def settings_file() -> Path:
    return platformdirs.user_config_path("voxtui", appauthor=False) / "config.yaml"


def load() -> Settings:
    """Defaults where there is no file.  Raises shared.config.ConfigError that names the place in it."""
    path = settings_file()
    if not path.is_file():
        return Settings()
    found = read_file(path, Settings)
    try:
        return structs.replace(found, language=language_of(found.language or ""))
    except ValueError as error:
        raise ConfigError(f"{path}: language: {error}") from None


def transcripts_folder(settings: Settings) -> Path:
    """Where conversations are kept."""
    if settings.keep_in is not None:
        return Path(settings.keep_in).expanduser()
    return platformdirs.user_data_path("voxtui", appauthor=False) / "transcripts"
