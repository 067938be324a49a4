"""The fields of `POST /v1/audio/transcriptions`: every published one is known, what has no effect is told, what is
wrong is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_type_hints

import httpx
import msgspec
import openai
import pytest
from openai.types.audio.transcription_create_params import ChunkingStrategyVadConfig, TranscriptionCreateParamsStreaming
from openai.types.audio.transcription_diarized import TranscriptionDiarized
from openai.types.audio.transcription_text_done_event import TranscriptionTextDoneEvent
from openai.types.audio.transcription_verbose import TranscriptionVerbose
from openai.types.audio_response_format import AudioResponseFormat

from shared.refusals import WireError
from tests.support.daemon import Daemon, voxd_process
from tests.support.speech import FOLDER
from voxd.web.file_request import FORMATS, Chunking, Fields, in_its_words, read

FLAC = (FOLDER / "librivox_austen_0880.flac").read_bytes()
NO_EFFECT: dict[str, Any] = {
    "temperature": 0.5,
    "include": ["logprobs"],
    "known_speaker_names": ["agent", "customer"],
    "known_speaker_references": ["data:audio/wav;base64,AA=="],
}


def test_every_published_field_is_known() -> None:
    ours = {field.name for field in msgspec.structs.fields(Fields)}
    assert set(get_type_hints(TranscriptionCreateParamsStreaming)) - {"file"} == ours
    chunking = {field.name for field in msgspec.structs.fields(Chunking)}
    assert set(get_type_hints(ChunkingStrategyVadConfig)) == chunking
    assert set(AudioResponseFormat.__args__) == set(FORMATS)  # type: ignore[attr-defined]


def test_nothing_asked_is_the_plain_json_of_whatever_is_spoken() -> None:
    wanted = read([])
    assert (wanted.format, wanted.stream, wanted.language, wanted.sound, wanted.notes) == (
        ("json", False, None, {"transcription": {}}, ())
    )
    empty = [(name, "") for name in ("response_format", "stream", "language", "temperature", "chunking_strategy")]
    assert read(empty) == wanted, "empty is how clients write null in a form"


@pytest.mark.parametrize(
    ("pairs", "sound"),
    [
        ([("language", "en-US")], {"transcription": {"language": "en"}}),
        ([("language", "auto")], {"transcription": {}}),
        ([("languages[]", "German")], {"transcription": {"language": "de", "languages": ["de"]}}),
        ([("languages[]", "en"), ("languages[]", "de")], {"transcription": {"languages": ["en", "de"]}}),
        ([("keywords[]", "Ada"), ("keywords[1]", "{}")], {"transcription": {"keywords": ["Ada", "{}"]}}),
        ([("prompt", '{"a": 1}')], {"transcription": {"prompt": '{"a": 1}'}}),
        ([("chunking_strategy", "auto")], {"transcription": {}}),
        (
            [("chunking_strategy[type]", "server_vad"), ("chunking_strategy[threshold]", "0.25")],
            {"transcription": {}, "turn_detection": {"type": "server_vad", "threshold": 0.25}},
        ),
        (
            [("chunking_strategy", '{"type": "server_vad", "silence_duration_ms": 900}')],
            {"transcription": {}, "turn_detection": {"type": "server_vad", "silence_duration_ms": 900}},
        ),
    ],
)
def test_what_has_an_effect_is_configured(pairs: list[tuple[str, str]], sound: dict[str, Any]) -> None:
    assert read(pairs).sound == sound


def test_what_has_no_effect_is_told() -> None:
    for name, value in NO_EFFECT.items():
        pairs = [(f"{name}[]", each) for each in value] if isinstance(value, list) else [(name, str(value))]
        (note,) = read(pairs).notes
        assert note.startswith(f"'{name}' has no effect here: ")
    assert read([("temperature", "0"), ("tomorrow", "x"), ("its[a]", "1")]).notes == (
        "not known here and left out: tomorrow, its",
    )
    both = [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")]
    (words,) = read(both).notes
    assert read([*both, ("response_format", "verbose_json")]).notes == ()
    (speakers,) = read([("response_format", "diarized_json")]).notes
    assert "verbose_json" in words
    assert "speakers" in speakers


@pytest.mark.parametrize(
    ("pairs", "param", "right"),
    [
        ([("response_format", "xml")], "response_format", "json, text, srt"),
        ([("response_format", "{}")], "response_format", "json, text, srt"),
        ([("stream", "yes please")], "stream", "true, false"),
        ([("stream", "true"), ("response_format", "srt")], "response_format", "when stream is true: json, text"),
        ([("temperature", "hot")], "temperature", "from 0 to 1"),
        ([("temperature", "nan")], "temperature", "from 0 to 1"),
        ([("temperature", "1e400")], "temperature", "from 0 to 1"),
        ([("language", "klingon")], "language", "'en' or 'de'"),
        ([("languages[]", "en"), ("languages[]", "klingon")], "languages[1]", "'en' or 'de'"),
        ([("timestamp_granularities[]", "line")], "timestamp_granularities", "segment"),
        ([("chunking_strategy", "never")], "chunking_strategy", "server_vad"),
        ([("chunking_strategy", "{")], "chunking_strategy", "server_vad"),
        ([("chunking_strategy[type]", "semantic_vad")], "chunking_strategy.type", "server_vad"),
        ([("chunking_strategy", '{"type":"server_vad","threshold":2}')], "chunking_strategy.threshold", "from 0 to 1"),
        ([("language", "en"), ("language", "de")], "language", "twice"),
        ([("prompt[a]", "x")], "prompt", "text"),
        (
            [("chunking_strategy", "auto"), ("chunking_strategy[type]", "server_vad")],
            "chunking_strategy[type]",
            "twice",
        ),
    ],
)
def test_what_is_wrong_is_named(pairs: list[tuple[str, str]], param: str, right: str) -> None:
    with pytest.raises(WireError) as refused:
        read(pairs)
    assert refused.value.param == param
    assert right in refused.value.message


def test_what_a_session_says_is_said_in_the_words_of_the_form() -> None:
    path = "session.audio.input."
    assert in_its_words(f"'{path}transcription.prompt' is kept") == "'prompt' is kept"
    assert in_its_words(f"{path}turn_detection.threshold") == "chunking_strategy.threshold"


# ── a client of the API ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo") as running:
        yield running


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    link = httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.socket)), timeout=60)
    with openai.OpenAI(api_key="-", base_url="http://localhost/v1", http_client=link, max_retries=0) as made:
        yield made


def test_a_client_that_sends_every_field_is_served_and_told(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.with_raw_response.create(
        file=("speech.flac", FLAC),
        model="gpt-4o-transcribe-diarize",
        language="EN",
        languages=["en", "de"],
        prompt="About Ada.",
        keywords=["Ada", "Babbage"],
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        chunking_strategy={"type": "server_vad", "threshold": 0.01, "silence_duration_ms": 300},
        **NO_EFFECT,
    )
    found = TranscriptionVerbose.model_validate(json.loads(answer.text))
    assert found.text
    assert found.language == "en"
    notes = answer.headers["x-voxd-notes"]
    for told in (*NO_EFFECT, "'prompt'", "'keywords'", "chunking_strategy.threshold"):
        assert told in notes


def test_speakers_are_one_and_that_is_told(client: openai.OpenAI) -> None:
    raw = client.audio.transcriptions.with_raw_response.create(
        file=("speech.flac", FLAC), model="x", response_format="diarized_json", chunking_strategy="auto"
    )
    found = TranscriptionDiarized.model_validate(json.loads(raw.text))
    assert {segment.speaker for segment in found.segments} == {"A"}
    assert "speakers" in raw.headers["x-voxd-notes"]

    events = list(
        client.audio.transcriptions.create(
            file=("speech.flac", FLAC), model="x", response_format="diarized_json", stream=True
        )
    )
    kinds = [event.type for event in events]
    assert kinds[0] == "transcript.text.delta"
    assert kinds[-2:] == ["transcript.text.segment", "transcript.text.done"]
    assert isinstance(events[-1], TranscriptionTextDoneEvent)
