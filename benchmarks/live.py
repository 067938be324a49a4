"""The whole stack on real speech, in real time: a voxd in processes of its own, the real client, the clips.

`python -m benchmarks.live` prints words and latency of every English clip; `tests/voxd/engine/whisper/test_live.py`
asserts on the same run. Everything is compared within one run, because machines differ: the same weights on whole clips
for the words, one decode alone for the time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from statistics import median

import jiwer
from faster_whisper import WhisperModel
from whisper_normalizer.english import EnglishTextNormalizer

from shared.events import TranscriptionCompleted, TranscriptionDelta
from shared.latency import TurnMetrics, percentile, summarise
from tests.support.speech import Clip, clips
from voxd.engine.whisper.model import find_weights
from voxtui.capture.sources import FileSource
from voxtui.commands.local import private_voxd
from voxtui.events import Event
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.target import Direct, Target
from voxtui.session.run import Run


@dataclass(slots=True)
class ClipRun:
    """One clip as the client got it."""

    clip: Clip
    text: str = ""
    first_delta_s: float | None = None  # after the clip's first sample
    turns: list[TurnMetrics] = field(default_factory=list)


def word_error_rate(references: list[str], hypotheses: list[str]) -> float:
    """jiwer on whisper's own normaliser, percent."""
    normal = EnglishTextNormalizer()
    return 100 * float(jiwer.wer([normal(r) for r in references], [normal(h) for h in hypotheses]))


async def listen(target: Target, clip: Clip, silence_ms: int = 500) -> ClipRun:
    """Plays one clip in real time."""
    heard, texts = ClipRun(clip), []
    begun = time.monotonic()

    def tell(event: Event) -> None:
        if isinstance(event, TranscriptionDelta) and heard.first_delta_s is None:
            heard.first_delta_s = time.monotonic() - begun
        elif isinstance(event, TranscriptionCompleted):
            texts.append(event.transcript)

    async with RealtimeClient.connect(Direct(target), wishes=Wishes(silence_ms=silence_ms, answers=False)) as client:
        run = Run(client, FileSource(clip.name, clip.samples()), tell, silence_ms=silence_ms)
        begun = time.monotonic()
        await run.run()
    heard.text = " ".join(texts)
    heard.turns = run.meter.finished()
    return heard


@dataclass(slots=True)
class Reference:
    """The same weights on whole clips, nobody else on the machine."""

    texts: list[str]
    decode_ms: list[float]


def whole_clips(chosen: list[Clip]) -> Reference:
    """Transcribes each whole clip through the library itself, greedily, on both cores."""
    model = WhisperModel(str(find_weights("tiny.en", lambda _: None)), device="cpu", compute_type="int8", cpu_threads=2)
    texts, times = [], []
    for clip in chosen:
        begun = time.perf_counter()
        segments, _ = model.transcribe(clip.samples(), language="en", beam_size=1, condition_on_previous_text=False)
        texts.append(" ".join(segment.text.strip() for segment in segments))
        if clip.seconds < 30:  # one decode
            times.append((time.perf_counter() - begun) * 1000)
    return Reference(texts, times)


@dataclass(slots=True)
class Outcome:
    heard: list[ClipRun]
    whole: Reference

    @property
    def references(self) -> list[str]:
        return [each.clip.text for each in self.heard]

    @property
    def live_wer(self) -> float:
        return word_error_rate(self.references, [each.text for each in self.heard])

    @property
    def whole_wer(self) -> float:
        return word_error_rate(self.references, self.whole.texts)

    @property
    def turns(self) -> list[TurnMetrics]:
        return [turn for each in self.heard for turn in each.turns]

    def values(self, name: str) -> list[float]:
        return [value for turn in self.turns if (value := turn.as_dict().get(name)) is not None]

    @property
    def final_bound_ms(self) -> float:
        """What `final_ms` p50 is held against: the end decided, or speculation begun and one decode, and 150 ms."""
        return max(percentile(self.values("endpoint_ms"), 50), 130 + median(self.whole.decode_ms)) + 150


async def run(chosen: list[Clip]) -> Outcome:
    async with private_voxd(lambda line: print(line, file=sys.stderr)) as target:  # noqa: T201
        heard = [await listen(target, clip) for clip in chosen]
    return Outcome(heard, whole_clips(chosen))


def report(outcome: Outcome) -> str:
    """The report for people."""
    lines = [f"{'clip':<26} {'turns':>5} {'first text s':>12}  words"]
    for each in outcome.heard:
        first = "-" if each.first_delta_s is None else f"{each.first_delta_s:.2f}"
        lines.append(f"{each.clip.name[:26]:<26} {len(each.turns):>5} {first:>12}  {each.text[:70]}")
    for name, found in summarise(outcome.turns).items():
        lines.append(f"{name:<16} n {found.n:>3}   p50 {found.p50:8.2f}   p95 {found.p95:8.2f}")
    lines.append(f"one decode alone  p50 {median(outcome.whole.decode_ms):.0f} ms")
    lines.append(f"final_ms p50 is to be at most {outcome.final_bound_ms:.0f} ms")
    lines.append(f"word error rate   live {outcome.live_wer:.2f} %   whole clips {outcome.whole_wer:.2f} %")
    return "\n".join(lines)


def main() -> None:
    wanted = sys.argv[1:]
    chosen = [clip for clip in clips("en") if not wanted or clip.name in wanted]
    print(report(asyncio.run(run(chosen))))  # noqa: T201


if __name__ == "__main__":
    main()
