"""`POST /v1/audio/transcriptions` as a stranger meets it: real processes, real files."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from shared.audio import RATE, Float32
from tests.support.connections import ClosedDesk
from tests.support.daemon import Daemon, voxd_process
from tests.support.speech import FOLDER, clip
from voxd.web import transcriptions
from voxd.web.form import FIELDS

PATH = "/v1/audio/transcriptions"
FLAC = (FOLDER / "librivox_austen_0880.flac").read_bytes()
SPEECH = clip("librivox_austen_0880").samples()
TWICE = np.concatenate([SPEECH, np.zeros(RATE, np.float32), SPEECH])


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo") as running:
        yield running


def client(daemon: Daemon) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=300)


async def post(daemon: Daemon, file: bytes = FLAC, **fields: str) -> httpx.Response:
    async with client(daemon) as http:
        return await http.post(PATH, files={"file": ("speech", file)}, data={"model": "whisper-1"} | fields)


def encoded(samples: Float32, kind: str = "WAV", rate: int = RATE, **more: Any) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, samples, rate, format=kind, **more)
    return written.getvalue()


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return answer.status_code, found["code"], found["param"]


async def sessions_become(daemon: Daemon, count: int) -> None:
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(daemon.status))["sessions"] != count:
            pass


@asynccontextmanager
async def stopped_engine(daemon: Daemon) -> AsyncIterator[int]:
    """Stops the engine process, so that requests stay unanswered."""
    pid = int(str((await asyncio.to_thread(daemon.status))["engine_pid"]))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# ── what comes out ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_forms_of_an_answer(daemon: Daemon) -> None:
    plain = (await post(daemon)).json()
    assert plain["text"].startswith("one two three")
    assert plain["usage"] == {"type": "duration", "seconds": pytest.approx(len(SPEECH) / RATE, abs=0.001)}
    text = await post(daemon, response_format="text")
    assert text.text == plain["text"] + "\n"
    assert text.headers["content-type"].startswith("text/plain")
    full = (await post(daemon, response_format="verbose_json", language="en")).json()
    assert (full["task"], full["language"], full["text"]) == ("transcribe", "en", plain["text"])
    (segment,) = full["segments"]
    assert 0 <= segment["start"] < 0.5 < segment["end"] <= full["duration"]


async def test_turns_are_segments_and_their_texts_are_joined(daemon: Daemon) -> None:
    once = (await post(daemon)).json()["text"]
    file = encoded(TWICE)
    assert (await post(daemon, file)).json()["text"] == f"{once} {once}"

    full = (await post(daemon, file, response_format="verbose_json")).json()
    first, second = full["segments"]
    assert first["text"] == second["text"] == once
    assert first["end"] < second["start"]
    assert abs(second["start"] - first["start"] - (len(SPEECH) / RATE + 1)) < 0.4
    cues = (await post(daemon, file, response_format="srt")).text
    assert re.fullmatch(r"(\d+\n[\d:,]{12} --> [\d:,]{12}\n(.+\n){1,2}\n?){2}", cues)
    assert (await post(daemon, file, response_format="vtt")).text.startswith("WEBVTT\n\n00:00:00.")


async def test_a_stream_of_deltas_is_the_text(daemon: Daemon) -> None:
    answer = await post(daemon, encoded(TWICE), stream="true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]

    *deltas, done = told
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert done["type"] == "transcript.text.done"
    assert len(deltas) > 4
    assert (
        "".join(event["delta"] for event in deltas)
        == done["text"]
        == (await post(daemon, encoded(TWICE))).json()["text"]
    )


@pytest.mark.parametrize(
    ("kind", "rate", "channels"),
    [("WAV", 8_000, 1), ("WAV", 44_100, 2), ("FLAC", 48_000, 2), ("MP3", 16_000, 1), ("OGG", 48_000, 1)],
)
async def test_containers_rates_and_channels(daemon: Daemon, kind: str, rate: int, channels: int) -> None:
    at = np.arange(0, len(SPEECH), RATE / rate)
    there = np.interp(at, np.arange(len(SPEECH)), SPEECH).astype(np.float32)
    answer = await post(daemon, encoded(np.stack([there] * channels, axis=1), kind, rate))

    assert answer.status_code == 200, answer.text
    assert answer.json()["text"].startswith("one two three four")
    assert abs(answer.json()["usage"]["seconds"] - len(SPEECH) / RATE) < 0.15


@pytest.mark.parametrize("seconds", [0.0, 0.01, 2.0])
async def test_silence_has_an_empty_text(daemon: Daemon, seconds: float) -> None:
    answer = await post(daemon, encoded(np.zeros(int(seconds * RATE), np.float32)))
    assert (answer.status_code, answer.json()["text"]) == (200, "")
    assert (await post(daemon, encoded(np.zeros(RATE, np.float32)), response_format="srt")).text == ""


async def test_speech_that_is_cut_off_is_not_lost(daemon: Daemon) -> None:
    answer = await post(daemon, encoded(SPEECH[: int(1.5 * RATE)]))
    assert answer.json()["text"].startswith("one two three")


async def test_speech_to_the_very_end_is_a_turn_all_the_same(daemon: Daemon) -> None:
    answer = await post(daemon, encoded(np.concatenate([SPEECH] * 5)[: -RATE // 2], subtype="FLOAT"))
    assert answer.status_code == 200
    assert answer.json()["text"].startswith("one two")


async def test_times_of_words_and_segments_in_any_order(daemon: Daemon) -> None:
    async def asked(*wanted: str) -> httpx.Response:
        form = {"model": "x", "response_format": "verbose_json", "timestamp_granularities[]": list(wanted)}
        async with client(daemon) as http:
            return await http.post(PATH, files={"file": ("x", encoded(TWICE))}, data=form)

    for wanted in (("word",), ("word", "segment"), ("segment", "word"), ("segment",), ()):
        answer = await asked(*wanted)
        found = answer.json()
        assert ("segments" in found, "words" in found) == ("segment" in wanted or not wanted, "word" in wanted)
        assert found["language"] != "unknown"
        if "word" in wanted:
            assert [word["word"] for word in found["words"]] == found["text"].split()
            times = [time for word in found["words"] for time in (word["start"], word["end"])]
            assert times == sorted(times)
            assert "does not tell when words were said" in answer.headers["x-voxd-notes"]


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("file", "fields", "status", "code", "param", "told"),
    [  # a number stands for a file of so many bytes
        (b"not audio", {}, 400, "invalid_value", "file", "wav, flac, mp3, ogg"),
        (b"", {}, 400, "invalid_value", "file", "wav, flac, mp3, ogg"),
        (FLAC[:64], {}, 400, "invalid_value", "file", ""),
        (
            FLAC,
            {"response_format": "xml"},
            400,
            "invalid_value",
            "response_format",
            "json, text, srt, verbose_json, vtt",
        ),
        (FLAC, {"response_format": "srt", "stream": "true"}, 400, "invalid_value", "response_format", "json, text"),
        (FLAC, {"stream": "maybe"}, 400, "invalid_value", "stream", "true, false"),
        (FLAC, {"timestamp_granularities[]": "line"}, 400, "invalid_value", "timestamp_granularities", "segment"),
        (transcriptions.FILE + 1, {}, 413, "file_too_large", "file", "25 MiB"),
        (transcriptions.BODY + 1, {}, 413, "file_too_large", "file", "25 MiB"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
async def test_what_is_wrong_is_named(
    daemon: Daemon, file: bytes | int, fields: dict[str, str], status: int, code: str, param: str, told: str
) -> None:
    answer = await post(daemon, bytes(file) if isinstance(file, int) else file, **fields)
    assert problem(answer) == (status, code, param)
    assert told in answer.json()["error"]["message"]


async def test_what_is_no_form(daemon: Daemon) -> None:
    multipart = {"content-type": "multipart/form-data"}
    async with client(daemon) as http:
        assert problem(await http.post(PATH, json={})) == (415, "unsupported_media_type", None)
        assert problem(await http.post(PATH, headers=multipart, content=b"x")) == (400, "invalid_form", None)
        no_file = await http.post(PATH, files={"model": (None, "whisper-1")})
        assert problem(no_file) == (400, "missing_required_parameter", "file")
        assert (await http.get(PATH)).status_code == 405


def form(*fields: tuple[str, str], named: str = ' filename="speech.flac"') -> bytes:
    """A form as a program writes it by hand, with the boundary `b`."""
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields]
    parts.append(f'Content-Disposition: form-data; name="file";{named}\r\n\r\n'.encode() + FLAC)
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


GRANULARITIES = [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")]


@pytest.mark.parametrize("kind", ["multipart/form-data", "Multipart/Form-Data", "MULTIPART/FORM-DATA"])
@pytest.mark.parametrize(
    "fields",
    [
        [("keywords[]", f"word{number}") for number in range(200)],
        [("include[]", "logprobs"), ("temperature", "0"), ("chunking_strategy", "auto"), ("stream", "False")],
        GRANULARITIES,
        GRANULARITIES[::-1],
        [("timestamp_granularities", "segment"), *GRANULARITIES],
    ],
    ids=["200 keywords", "what does nothing", "word, segment", "segment, word", "both names"],
)
async def test_odd_forms_that_are_right(daemon: Daemon, kind: str, fields: list[tuple[str, str]]) -> None:
    content = form(*fields, ("response_format", "verbose_json"))
    async with client(daemon) as http:
        answer = await http.post(PATH, headers={"content-type": f"{kind}; boundary=b"}, content=content)
    assert answer.status_code == 200, answer.text
    assert answer.json()["segments"]


async def test_odd_forms_that_are_wrong(daemon: Daemon) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    async with client(daemon) as http:
        unnamed = await http.post(PATH, headers=headers, content=form(named=""))
        other = await http.post(PATH, headers=headers, content=form(*GRANULARITIES, ("timestamp_granularities[]", "x")))
        too_many = await http.post(PATH, headers=headers, content=form(*[("keywords[]", "x")] * (FIELDS + 1)))
    assert problem(unnamed) == (400, "invalid_value", "file")
    assert "file name" in unnamed.json()["error"]["message"]
    assert problem(other) == (400, "invalid_value", "timestamp_granularities")
    assert problem(too_many) == (400, "invalid_form", None)


async def test_an_upload_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcriptions, "STALL_S", 0.05)
    sent: list[Any] = []

    async def never() -> dict[str, Any]:
        return await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers, "server": ("x", None)}
    await transcriptions.Transcriptions(ClosedDesk())(scope, never, send)

    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "upload_stalled"


async def test_a_rate_that_is_none_of_sound_is_refused(daemon: Daemon) -> None:
    answer = await post(daemon, encoded(SPEECH, rate=500_000))
    assert problem(answer) == (400, "invalid_value", "file")
    assert "500000 Hz" in answer.json()["error"]["message"]


async def test_without_a_transcriber_the_setting_is_named() -> None:
    with voxd_process("--transcribe", "none", "--respond", "echo") as daemon:
        answer = await post(daemon)
    assert problem(answer) == (503, "no_transcriber", None)
    assert "engines.transcribe" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"]
    assert answer.headers["x-should-retry"] == "false", "clients are not to try the impossible"


# ── slots and losses ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_files_count_as_sessions_and_a_client_that_leaves_frees_its_slot_at_once() -> None:
    with voxd_process("--transcribe", "echo", env={"VOXD_SERVER_MAX_SESSIONS": "1"}) as daemon:
        async with stopped_engine(daemon):
            first = asyncio.create_task(post(daemon))
            await sessions_become(daemon, 1)
            answer = await post(daemon)
            assert problem(answer) == (503, "session_limit_reached", None)
            assert answer.headers["retry-after"]
            first.cancel()
            await sessions_become(daemon, 0)
        assert (await post(daemon)).status_code == 200


async def test_the_engine_process_dies_and_the_file_is_transcribed_all_the_same() -> None:
    with voxd_process("--transcribe", "echo") as daemon:
        wanted = (await post(daemon, encoded(TWICE))).json()["text"]
        async with stopped_engine(daemon) as pid:
            answer = asyncio.create_task(post(daemon, encoded(TWICE)))
            await sessions_become(daemon, 1)
            os.kill(pid, signal.SIGKILL)
            assert (await answer).json()["text"] == wanted


async def test_a_daemon_that_stops_finishes_its_files_first() -> None:
    with voxd_process("--transcribe", "echo") as daemon:
        async with stopped_engine(daemon):
            answer = asyncio.create_task(post(daemon, encoded(TWICE)))
            await sessions_become(daemon, 1)
            daemon.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                while (await asyncio.to_thread(daemon.status))["state"] != "draining":
                    pass
        assert (await answer).json()["text"].startswith("one two three")
        assert await asyncio.to_thread(daemon.ended, 60)
        assert daemon.process.returncode == 0


async def test_while_the_engine_loads_clients_are_told_to_come_back() -> None:
    with voxd_process("--transcribe", "echo", ready=False) as daemon:
        async with asyncio.timeout(60):
            while not daemon.socket.exists():
                await asyncio.to_thread(daemon.ended, 0.01)
        answer = await post(daemon)
    if answer.status_code != 200:  # a quick machine may be ready by now
        assert problem(answer) == (503, "engine_loading", None)
        assert answer.headers["retry-after"]


# ── real words, and a client that nobody here wrote ─────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    environ = {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}
    with voxd_process("--transcribe", "whisper", "--listen", "127.0.0.1:0", env=environ) as running:
        yield running


async def test_words_of_a_real_clip(whisper: Daemon) -> None:
    answer = await post(whisper, (FOLDER / "ps_goforward.flac").read_bytes())
    assert "forward" in answer.json()["text"].lower()


async def test_a_language_that_the_model_does_not_know(whisper: Daemon) -> None:
    assert problem(await post(whisper, language="de")) == (400, "invalid_value", "language")
    assert problem(await post(whisper, language="de", stream="true")) == (400, "invalid_value", "language")


async def test_two_files_at_once_get_their_own_words(whisper: Daemon) -> None:
    names = ("ps_goforward", "librivox_austen_0880")
    files = [(FOLDER / f"{name}.flac").read_bytes() for name in names]
    alone = [(await post(whisper, file)).json()["text"] for file in files]
    together = await asyncio.gather(*(post(whisper, file) for file in files))
    assert [answer.json()["text"] for answer in together] == alone


def test_the_sdk_of_the_api_works_unmodified(whisper: Daemon) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    listening = whisper.status()["listen"]
    assert isinstance(listening, list)
    (token,) = (path.read_text().strip() for path in _tokens(whisper))
    sdk = openai.OpenAI(base_url=f"http://{listening[0]}/v1", api_key=token, max_retries=0)
    file = ("speech.flac", (FOLDER / "ps_goforward.flac").read_bytes())

    create = sdk.audio.transcriptions.create
    found = create(model="whisper-1", file=file)
    assert "forward" in found.text.lower()
    assert "-->" in create(model="whisper-1", file=file, response_format="srt")
    assert create(model="whisper-1", file=file, response_format="verbose_json").segments[0].text == found.text
    told = list(create(model="gpt-4o-transcribe", file=file, stream=True))
    assert "".join(event.delta for event in told[:-1]) == told[-1].text == found.text
    with pytest.raises(openai.BadRequestError, match="not understood"):
        create(model="whisper-1", file=("x.wav", b"nonsense"))
    stranger = openai.OpenAI(base_url=f"http://{listening[0]}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.audio.transcriptions.create(model="whisper-1", file=file)


def _tokens(daemon: Daemon) -> list[Path]:
    environ = Path(f"/proc/{daemon.process.pid}/environ").read_bytes().split(b"\0")
    state = next(each for each in environ if each.startswith(b"XDG_STATE_HOME="))
    return sorted(Path(os.fsdecode(state.partition(b"=")[2])).rglob("*token*"))
