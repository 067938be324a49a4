"""Ten minutes of speech as a file: voxd, both ways in, beside plain faster-whisper.  `python -m benchmarks.files`.

The English clips of tests/data/speech are joined, with 0.7 s of silence behind each, until they last as long as asked.
The same weights (tiny.en, int8), beam and cores do both; models are loaded before the clock runs.  `client` is `voxtui
transcribe` (WebSocket), `rest` is POST /v1/audio/transcriptions.  Exit status 1 if voxd takes more than 1.1 times as
long as the library, or its words are worse.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: idle BLAS threads spin and steal from the decoder

import asyncio
import contextlib
import io
import tempfile
import time
import wave
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
import numpy as np
from faster_whisper import WhisperModel

from benchmarks.live import word_error_rate
from shared.audio import RATE, Float32, float_to_pcm16, to_samples
from shared.terminal import note, say
from tests.support.speech import clips
from voxd.engine.whisper.model import cores, find_weights
from voxtui.commands.local import private_voxd
from voxtui.commands.transcribe import transcribe_files
from voxtui.link.target import Direct, Target

SLOWER_AT_MOST = 1.1
PATH = "/v1/audio/transcriptions"


@dataclass(frozen=True, slots=True)
class Took:
    """One way to write the file down."""

    name: str
    seconds: float
    text: str


def joined(seconds: float) -> tuple[Float32, list[str]]:
    """float32 [n] at 16 kHz, and what is said in it."""
    parts: list[Float32] = []
    texts: list[str] = []
    size, chosen, gap = 0, clips("en"), np.zeros(to_samples(700), np.float32)
    while size < seconds * RATE:
        clip = chosen[len(texts) % len(chosen)]
        parts += [clip.samples(), gap]
        texts.append(clip.text)
        size += parts[-2].size + gap.size
    return np.concatenate(parts), texts


def write(path: Path, samples: Float32) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(float_to_pcm16(samples))


def library(path: Path, **options: bool) -> Took:
    """faster-whisper as its README calls it, greedily, from the file to the text."""
    model = WhisperModel(
        str(find_weights("tiny.en", lambda _: None)), device="cpu", compute_type="int8", cpu_threads=min(2, cores())
    )
    begun = time.perf_counter()
    segments, _ = model.transcribe(str(path), language="en", beam_size=1, **options)
    text = " ".join(segment.text.strip() for segment in segments)
    name = ", ".join(["faster-whisper", *(f"{key}={value}" for key, value in options.items())])
    return Took(name, time.perf_counter() - begun, text)


async def _timed(name: str, work: Callable[[], Awaitable[str]]) -> Took:
    begun = time.perf_counter()
    text = await work()
    return Took(name, time.perf_counter() - begun, text)


async def daemon(path: Path, content: bytes) -> list[Took]:
    """Both ways into a voxd of one's own, which is warm.  `content`: of the file."""
    async with private_voxd(note) as target:
        return [
            await _timed("voxd, client", lambda: _client(target, path)),
            await _timed("voxd, rest", lambda: _rest(target, content)),
        ]


async def _client(target: Target, path: Path) -> str:
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        await transcribe_files(Direct(target), [path], form="txt", language="en")
    return written.getvalue()


async def _rest(target: Target, content: bytes) -> str:
    transport = httpx.AsyncHTTPTransport(uds=str(target.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=3600) as http:
        form = {"model": "whisper-1", "response_format": "text", "language": "en"}
        answer = await http.post(PATH, files={"file": ("speech.wav", content)}, data=form)
        answer.raise_for_status()
        return answer.text


@click.command()
@click.option("--seconds", default=600.0, show_default=True, help="How long the file is, about.")
@click.option("--show", is_flag=True, help="Show the texts.")
def main(seconds: float, show: bool) -> None:
    """Writes down a long file in several ways, one after the other."""
    samples, texts = joined(seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        write(path, samples)
        plain = library(path)
        ways = [plain, *asyncio.run(daemon(path, path.read_bytes()))]
    say(f"{samples.size / RATE:.0f} s of speech, {cores()} cores")
    reference = " ".join(texts)
    rates = [word_error_rate([reference], [way.text]) for way in ways]
    for way, rate in zip(ways, rates, strict=True):
        say(f"{way.name:<16} {way.seconds:7.1f} s  x {way.seconds / plain.seconds:.2f}   WER {rate:5.2f} %")
        if show:
            say(way.text)
    good = all(way.seconds <= SLOWER_AT_MOST * plain.seconds for way in ways) and max(rates[1:]) <= rates[0]
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
