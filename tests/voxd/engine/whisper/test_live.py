"""Promises about real speech through the whole stack: `make test-slow`.  The figures come from `benchmarks.live`."""

from __future__ import annotations

import asyncio
from functools import cache

import numpy as np
import pytest

from benchmarks.live import Outcome, report, run
from shared.audio import RATE, Float32, float_to_pcm16, to_samples
from shared.events import SpeechStarted
from shared.latency import percentile
from tests.support.speech import clip, clips
from voxtui.capture.sources import FileSource
from voxtui.commands.local import private_voxd
from voxtui.events import Event
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.target import Direct, Target
from voxtui.session.run import Run

pytestmark = [pytest.mark.slow]


@cache
def outcome() -> Outcome:
    """One run for all promises: five minutes of speech take five minutes."""
    found = asyncio.run(run(clips("en")))
    print(report(found))  # noqa: T201  (pytest -s, and every failure, shows the figures)
    return found


def test_live_words_are_as_good_as_those_of_whole_clips() -> None:
    assert outcome().live_wer <= outcome().whole_wer + 1.5
    assert outcome().live_wer <= 11


def test_the_final_text_comes_when_one_decode_could_have_been_done() -> None:
    assert percentile(outcome().values("final_ms"), 50) <= outcome().final_bound_ms


def test_clips_longer_than_three_seconds_show_text_before_they_end() -> None:
    late = [
        (each.clip.name, each.first_delta_s)
        for each in outcome().heard
        if each.clip.seconds > 3 and not (each.first_delta_s is not None and each.first_delta_s < each.clip.seconds)
    ]
    assert late == []


def test_every_clip_has_words_and_every_turn_its_metrics() -> None:
    assert [each.clip.name for each in outcome().heard if not each.text] == []
    for turn in outcome().turns:
        assert {"endpoint_ms", "first_text_ms", "final_ms", "rtf"} <= turn.as_dict().keys()


# ── what is not speech ──────────────────────────────────────────────────────────────────────────────────────────────


def pink_noise(seconds: int, level_dbfs: float = -35) -> Float32:
    """1/f noise, by the inverse transform of a shaped spectrum."""
    random = np.random.default_rng(1)
    count = seconds * RATE
    spectrum = random.normal(size=count // 2 + 1) + 1j * random.normal(size=count // 2 + 1)
    shaped = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(count // 2 + 1), 1)), count)
    return np.asarray(shaped / np.sqrt(np.mean(shaped**2)) * 10 ** (level_dbfs / 20), np.float32)


def keyboard_noise(seconds: int) -> Float32:
    """Eight keys a second: 3 to 8 ms bursts, decaying, at random times and strengths, twice per key (down, up)."""
    random = np.random.default_rng(2)
    out = random.normal(0, 0.0005, seconds * RATE)
    for at in np.sort(random.uniform(0, seconds - 0.2, seconds * 8)):
        for offset, strength in ((0.0, 1.0), (random.uniform(0.05, 0.12), 0.5)):
            length = int(random.uniform(0.003, 0.008) * RATE)
            begin = int((at + offset) * RATE)
            burst = random.normal(0, 1, length) * np.exp(-np.arange(length) / (length / 4))
            out[begin : begin + length] += burst * strength * random.uniform(0.05, 0.4)
    return np.asarray(np.clip(out, -1, 1), np.float32)


@pytest.mark.parametrize("name", ["silence", "pink noise", "keyboard noise"])
def test_what_is_not_speech_starts_nothing(name: str) -> None:
    """No utterance means no decode: an engine is told of an utterance by its onset and of nothing before."""
    sound = {
        "silence": np.zeros(60 * RATE, np.float32),
        "pink noise": pink_noise(60),
        "keyboard noise": keyboard_noise(60),
    }[name]

    assert asyncio.run(_started(name, sound)) == []


async def _started(name: str, sound: Float32) -> list[SpeechStarted]:
    started: list[SpeechStarted] = []

    def tell(event: Event) -> None:
        if isinstance(event, SpeechStarted):
            started.append(event)

    async with (
        private_voxd(lambda _: None) as target,
        RealtimeClient.connect(Direct(target), wishes=Wishes(answers=False)) as client,
    ):
        await Run(client, FileSource(name, sound, hurry=True), tell, hurry=True, silence_ms=500).run()
    return started


# ── the VAD never waits for a decode ────────────────────────────────────────────────────────────────────────────────


def test_the_start_of_speech_is_told_while_another_stream_is_decoded() -> None:
    """From the capture of the frame that decides (64 ms of voice) to the event at the client, within 100 ms."""
    late = asyncio.run(_onsets_beside_decodes())

    assert len(late) >= 6
    assert percentile(late, 95) <= 100, late


async def _onsets_beside_decodes() -> list[float]:
    short = clip("librivox_austen_0880").samples()
    gap = np.zeros(RATE, np.float32)
    many = np.concatenate([gap, *(part for _ in range(7) for part in (short, gap))])
    async with private_voxd(lambda _: None) as target:
        busy = asyncio.create_task(_talk_without_end(target))
        try:
            return await _onset_delays(target, many)
        finally:
            busy.cancel()


async def _talk_without_end(target: Target) -> None:
    """A long clip over and over: partial and final decodes all the time."""
    sound = clip("two_cities_full").samples()
    async with RealtimeClient.connect(Direct(target), wishes=Wishes(answers=False)) as client:
        while True:
            await Run(client, FileSource("busy", sound), lambda _: None).run()


async def _onset_delays(target: Target, sound: Float32) -> list[float]:
    """Plays `sound`; ms from the capture of the frame that decided to the event, for each start of speech."""
    delays: list[float] = []
    onset, padding = to_samples(64), to_samples(300)  # the second voiced frame decides
    async with RealtimeClient.connect(Direct(target), wishes=Wishes(answers=False)) as client:

        async def watch() -> None:
            async for received in client:
                if isinstance(received.event, SpeechStarted):
                    decided = client.clock.time_of(to_samples(received.event.audio_start_ms) + padding + onset)
                    delays.append((received.at_us - (decided or 0)) / 1000)

        watching = asyncio.create_task(watch())
        await _feed(client, FileSource("short", sound))
        watching.cancel()
    return delays


async def _feed(client: RealtimeClient, source: FileSource) -> None:
    async for packet in source.packets():
        await client.send_audio(packet.pcm, packet.captured_us)
        if packet.end >= (source.samples or 0):
            return


def test_the_noises_are_as_loud_as_they_claim() -> None:
    """A test on silence that calls itself noise would prove nothing."""
    pcm = np.frombuffer(float_to_pcm16(pink_noise(5)), "<i2").astype(float) / 32768
    assert 20 * np.log10(np.sqrt(np.mean(pcm**2))) == pytest.approx(-35, abs=1)
    assert np.abs(keyboard_noise(5)).max() > 0.1
