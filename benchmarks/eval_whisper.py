"""How good and how quick is the embedded CPU engine on real speech?  `python -m benchmarks.eval_whisper`, of `make
bench`.

Every English clip goes in 20 ms packets through VAD, turn-taking and engine, as it would behind a socket, and its text
is compared with that of the same weights on the whole clip.  The clock is virtual: a decode really runs, and its result
arrives after the time that it took, while the audio stands still; so the run is quicker than the audio and the figures
are those of an idle machine.  Exit status 1 if a requirement is missed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: idle BLAS threads spin and steal from the decoder

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import click
import jiwer
import numpy as np
from whisper_normalizer.english import EnglishTextNormalizer

from shared.audio import PACKET, RATE, VAD_FRAME, Float32, Truth, float_to_pcm16
from shared.latency import percentile
from shared.terminal import say
from tests.support.speech import clips
from voxd.engine.contract import EngineCommand
from voxd.engine.vad import Vad
from voxd.engine.whisper.engine import Whisper
from voxd.engine.whisper.model import FasterWhisper, WhisperOptions, load_model
from voxd.engine.whisper.scheduler import Decode, Kind, Scheduler
from voxd.engine.whisper.workers import Result
from voxd.messages import Commit, Feed, Flush, Heard, Onset, Open, Output, Rollback, Said, Settled
from voxd.session.turns import Act, Mark, Rules, Turns

WORSE_BY_AT_MOST = 1.5  # points of WER, live against whole clips
WER_AT_MOST = 11.0
_normal = EnglishTextNormalizer()


class VirtualPool:
    """Workers whose results arrive when the virtual clock says so.  `cost_us` None: what the decode really took."""

    def __init__(self, count: int, work: Callable[..., object], cost_us: int | None = None) -> None:
        self.now_us = 0
        self.decodes: list[tuple[int, Kind]] = []
        self._count, self._work, self._cost_us = count, work, cost_us
        self._scheduler: Scheduler[object] = Scheduler(count)
        self._running: list[tuple[int, Result[object, object]]] = []  # (when it is done, what)

    def submit(self, request: Decode[object]) -> None:
        self._scheduler.put(request)
        self._fill()

    def promote(self, request: Decode[object]) -> None:
        self._scheduler.promote(request)

    def withdraw(self, stream: int, ref: int | None = None) -> None:
        self._scheduler.withdraw(stream, ref)

    def results(self) -> list[Result[object, object]]:
        done = [(at, result) for at, result in self._running if at <= self.now_us]
        self._running = [(at, result) for at, result in self._running if at > self.now_us]
        for _, result in done:
            self._scheduler.done(result.request)
        self._fill()
        return [result for _, result in done]

    def stop(self) -> None:
        self._running.clear()

    @property
    def next_us(self) -> int | None:
        return min((at for at, _ in self._running), default=None)

    def _fill(self) -> None:
        while len(self._running) < self._count and (request := self._scheduler.take()) is not None:
            began = time.monotonic_ns()
            value = self._work(request.payload)
            wall = self._cost_us or (time.monotonic_ns() - began) // 1000
            self.decodes.append((wall, request.kind))
            self._running.append((self.now_us + wall, Result(request, value, wall)))


@dataclass(slots=True)
class Run:
    """The transcript and times of one clip."""

    settled: list[str] = field(default_factory=list)
    outputs: list[tuple[int, Output]] = field(default_factory=list)  # (virtual us, output)
    marks: list[Mark] = field(default_factory=list)
    decodes: list[tuple[int, Kind]] = field(default_factory=list)
    audio_us: int = 0

    @property
    def text(self) -> str:
        return " ".join(self.settled)

    def first_us(self, *, provisional: bool) -> int | None:
        """When the first text came, confirmed or (if wanted) only guessed."""
        said = ((at, out) for at, out in self.outputs if isinstance(out, Said))
        return next((at for at, out in said if out.text or (provisional and out.provisional)), None)

    def final_us(self) -> int | None:
        """When the last utterance was settled."""
        return next((at for at, out in reversed(self.outputs) if isinstance(out, Settled)), None)


class Bench:
    """One loaded model, any number of clips."""

    def __init__(self, model: FasterWhisper, options: dict[str, object], cost_us: int | None = None) -> None:
        self._model, self._options, self._cost_us = model, options, cost_us

    def run(self, samples: Float32, rules: Rules, silence: int = 3 * RATE // 2) -> Run:
        """A clip, then `silence` as from an open microphone."""
        pools: list[VirtualPool] = []

        def make_pool(count: int, work: Callable[..., object], wake: Callable[[], None]) -> VirtualPool:
            pools.append(VirtualPool(count, work, self._cost_us))
            return pools[0]

        engine = Whisper(self._options, lambda: None, lambda options, progress: self._model, make_pool)  # type: ignore[arg-type]
        engine.load(lambda text: None)
        pcm = float_to_pcm16(samples) + bytes(2 * silence)
        return _drive(engine, pools[0], pcm, rules)


def _drive(engine: Whisper, pool: VirtualPool, pcm: bytes, rules: Rules) -> Run:
    run, vad = Run(audio_us=len(pcm) // 2 * 1_000_000 // RATE), Vad()
    engine.receive(Open(0, ("transcribe",)))
    vad.open(0)
    gateway = Gateway(rules, run)
    for at in range(0, len(pcm) // 2, PACKET):
        arrives = (at + PACKET) * 1_000_000 // RATE
        _wait(engine, pool, run, arrives)
        packet = pcm[2 * at : 2 * (at + PACKET)]
        engine.receive(Feed(0, at, packet))
        vad.feed(0, packet)
        for heard in vad.step():
            engine.receive(heard)
            for command in gateway.receive(heard):
                engine.receive(command)
        _take(engine, run, arrives)
    while pool.next_us is not None:
        _wait(engine, pool, run, pool.next_us)
    run.decodes = pool.decodes
    return run


def _wait(engine: Whisper, pool: VirtualPool, run: Run, until: int) -> None:
    """Lets the virtual clock run, stopping wherever a decode is done."""
    while pool.next_us is not None and pool.next_us <= until:
        pool.now_us = pool.next_us
        _take(engine, run, pool.now_us)
    pool.now_us = until


def _take(engine: Whisper, run: Run, now_us: int) -> None:
    for output in engine.step(now_us):
        run.outputs.append((now_us, output))
        if isinstance(output, Settled):
            run.settled.append(output.text)


class Gateway:
    """The other side of the process boundary: what the VAD heard -> commands for the engine."""

    def __init__(self, rules: Rules, run: Run) -> None:
        self._turns, self._run, self._ref = Turns(rules), run, 0

    def receive(self, heard: Heard) -> Iterator[EngineCommand]:
        for i, probability in enumerate(heard.probabilities):
            for mark in self._turns.receive_frame(heard.start + VAD_FRAME * i, probability):
                self._run.marks.append(mark)
                yield from self._commands(mark)

    def _commands(self, mark: Mark) -> Iterator[EngineCommand]:
        match mark.act:
            case Act.STARTED:
                self._ref += 1
                yield Onset(0, self._ref, mark.start)
            case Act.PAUSED:
                yield Flush(0, self._ref, mark.end)
            case Act.RESUMED:
                yield Rollback(0, self._ref)
            case Act.ENDED:
                yield Commit(0, self._ref, mark.end)


def keyboard(seconds: float, seed: int, level: float = 0.3) -> Float32:
    """Typing: for each key a click of some ms when it goes down and a softer one when it comes up."""
    random = np.random.default_rng(seed)
    out = random.normal(0, 0.001, int(seconds * RATE)).astype(np.float32)
    at = 0.2
    while at < seconds - 0.3:
        for later, gain in ((0.0, 1.0), (random.uniform(0.06, 0.12), 0.5)):
            size, start = int(random.uniform(0.004, 0.025) * RATE), int((at + later) * RATE)
            fade = np.exp(-np.arange(size) / (size / 3))
            tone = 1.5 * np.sin(2 * np.pi * random.uniform(400, 3500) * np.arange(size) / RATE)
            click_ = (random.normal(0, 1, size) + tone) * fade
            out[start : start + size] += level * gain * random.uniform(0.3, 1) * click_ / np.abs(click_).max()
        at += random.choice([random.uniform(0.08, 0.25), random.uniform(0.25, 0.6), random.uniform(0.6, 2)])
    return np.clip(out, -1, 1 - 2**-15)


def pink(seconds: float, seed: int, level: float = 0.1) -> Float32:
    """1/f noise."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=int(seconds * RATE)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(spectrum.size) + 1))
    return np.asarray(level * noise / np.abs(noise).max(), np.float32)


def wer(references: list[str], hypotheses: list[str]) -> float:
    """Per cent, over all words."""
    return 100 * float(jiwer.wer([_normal(text) for text in references], [_normal(text) for text in hypotheses]))


def spread(values: list[float]) -> str:
    return " / ".join(f"{percentile(values, q):.0f}" for q in (50, 95, 100)) if values else "none"


@dataclass(slots=True)
class Figures:
    """The figures of the report."""

    wer_live: float = 0
    wer_whole: float = 0
    first_text_ms: list[float] = field(default_factory=list)
    first_guess_ms: list[float] = field(default_factory=list)
    final_ms: list[float] = field(default_factory=list)
    late: list[str] = field(default_factory=list)  # clips over 3 s without text before their end
    rtf: float = 0
    noise_decodes: int = 0


def measure(bench: Bench, model: FasterWhisper, rules: Rules, *, verbose: bool) -> Figures:
    """Transcribes all English clips."""
    out = Figures()
    references, live, whole = [], [], []
    decoded = audio = 0
    for clip in clips("en"):
        samples = clip.samples()
        run, truth = bench.run(samples, rules), Truth(samples)
        first, last = truth.first_voiced(0, samples.size) or 0, truth.last_voiced(0, samples.size) or samples.size
        references.append(clip.text)
        live.append(run.text)
        whole.append(_whole(model, samples))
        decoded += sum(wall for wall, _ in run.decodes)
        audio += run.audio_us
        text_us, guess_us, final_us = run.first_us(provisional=False), run.first_us(provisional=True), run.final_us()
        for found, us, since in (
            (out.first_text_ms, text_us, first),
            (out.first_guess_ms, guess_us, first),
            (out.final_ms, final_us, last),
        ):
            if us is not None:
                found.append(us / 1000 - since * 1000 / RATE)
        if clip.seconds > 3 and (text_us is None or text_us > last * 1_000_000 // RATE):
            out.late.append(clip.name)
        if verbose:
            say(f"{clip.name}\n  reference {clip.text}\n  live      {run.text}\n  whole     {whole[-1].strip()}")
    out.wer_live, out.wer_whole, out.rtf = wer(references, live), wer(references, whole), decoded / audio
    return out


def _whole(model: FasterWhisper, samples: Float32) -> str:
    """The whole clip through the library itself, in windows of 30 s."""
    segments, _ = model.model.transcribe(
        samples, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
    )
    return "".join(segment.text for segment in segments)


def noise_decodes(bench: Bench, rules: Rules) -> dict[str, tuple[int, int]]:
    """A minute of each noise -> (utterances begun, decodes)."""
    noises = {"silence": np.zeros(60 * RATE, np.float32), "pink": pink(60, 1), "keyboard": keyboard(60, 2)}
    runs = {name: bench.run(samples, rules) for name, samples in noises.items()}
    return {n: (sum(m.act is Act.STARTED for m in r.marks), len(r.decodes)) for n, r in runs.items()}


@click.command()
@click.option("--options", default="{}", help="engine_options.whisper, as JSON.")
@click.option("--silence-ms", default=500, help="Silence that ends a turn.")
@click.option("--cost-ms", default=0, help="Pretend that every decode takes this long; 0: as long as it takes.")
@click.option("--verbose", is_flag=True, help="Show the texts.")
def main(options: str, silence_ms: int, cost_ms: int, verbose: bool) -> None:
    """Evaluates the engine on tests/data/speech."""
    given: dict[str, object] = json.loads(options)
    model = load_model(WhisperOptions.parse(given).resolved(os.cpu_count() or 1), lambda text: None)
    bench, rules = Bench(model, given, cost_ms * 1000 or None), Rules(silence=silence_ms * RATE // 1000)
    figures = measure(bench, model, rules, verbose=verbose)
    noises = noise_decodes(bench, rules)
    say(f"WER live {figures.wer_live:.1f} %, whole clips {figures.wer_whole:.1f} %")
    say("ms, p50 / p95 / worst, after the first or last voiced sample:")
    say(f"  first guess {spread(figures.first_guess_ms)}, first text {spread(figures.first_text_ms)}")
    say(f"  final {spread(figures.final_ms)}")
    say(f"decoding {figures.rtf:.2f} s of one worker per s of audio")
    say(f"over 3 s and no text before the end: {', '.join(figures.late) or 'none'}")
    for name, (begun, decodes) in noises.items():
        say(f"60 s of {name}: {begun} utterances, {decodes} decodes")
    good = figures.wer_live <= min(figures.wer_whole + WORSE_BY_AT_MOST, WER_AT_MOST)
    good = good and not figures.late and not any(decodes for _, decodes in noises.values())
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
