"""Clients of others, unmodified, with real speech against a real voxd: words, answers, turns, no complaint.

`make test-clients` installs them and runs this.  What they got through is the table in docs/PROTOCOL.md.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jiwer
import pytest
from whisper_normalizer.english import EnglishTextNormalizer

from tests.clients import table
from tests.clients.catalogue import CLIENTS, ENVIRONMENTS, RESULTS, Client
from tests.clients.stage import PATIENCE_S, QUESTION, SPEECH, Stage, stage
from tests.support.chat_server import Asked
from tests.support.speech import clip

pytestmark = [pytest.mark.clients, pytest.mark.timeout(2 * PATIENCE_S)]
COMPLAINT = re.compile(r"\b(warn(ing)?|error|exception|traceback|deprecat\w*|fatal|critical)\b", re.IGNORECASE)
EXPECTED_OF_A_RESTART = re.compile(r"connection|reconnect|retry|socket|closed|API error|APIError", re.IGNORECASE)
Result = dict[str, Any]
passed: dict[str, list[str]] = {}
WORDS = EnglishTextNormalizer()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("plain")) as here, here.daemon():
        yield here


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("tls"), tls=True) as here, here.daemon():
        yield here


# ── what a scenario has to show ─────────────────────────────────────────────────────────────────────────────────────


def is_the_speech(text: str) -> bool:
    """Nine words of ten."""
    return float(jiwer.wer(WORDS(clip(SPEECH).text), WORDS(text))) <= 0.1


def has_heard(result: Result, _: list[Asked]) -> None:
    assert is_the_speech(result["transcript"]), result
    for also in ("streamed",):
        assert is_the_speech(result.get(also, result["transcript"])), result


def has_answered_speech(result: Result, _: list[Asked]) -> None:
    if "transcript" in result:
        assert is_the_speech(result["transcript"]), result
    assert is_the_speech(result["answer"].removeprefix("You said: ")), result
    assert set(result.get("reasons", ())) <= {"client_cancelled", "turn_detected"}, result


def has_answered(result: Result, _: list[Asked]) -> None:
    for answer in result.get("answers", [result.get("answer")]):
        assert answer == f"You said: {QUESTION}", result


def has_restored(result: Result, asked: list[Asked]) -> None:
    """What was said before reached the model, in its order, and nothing after it was lost.  Engine and client may join
    messages: pipecat sends a past conversation as one."""
    said = "\n".join(str(message.get("content")) for message in asked[-1].body["messages"])
    places = [said.find(text) for text in ("My name is Ada.", "Hello, Ada.", QUESTION)]
    assert -1 not in places, said
    assert places == sorted(places), said
    assert QUESTION in result["answer"], result
    assert len(result.get("kept", [0] * 6)) >= 6, result


def has_instructed(result: Result, asked: list[Asked]) -> None:
    first, second = (str(each.body["messages"][0]["content"]) for each in asked[-2:])
    assert "French" in first, first
    assert "Latin" in second, second
    assert len(result["answers"]) == 2, result


def has_erred(result: Result, asked: list[Asked]) -> None:
    has_answered(result, asked)
    codes = ["invalid_value", "item_delete_invalid_item_id", "input_audio_buffer_commit_empty"]
    found = [code for _, code in result["errors"]]
    assert found == codes[-len(found) :] or found == codes[1:2], result
    assert result.get("refused", 401) == 401, result


def has_been_told(result: Result, asked: list[Asked]) -> None:
    has_answered(result, asked)
    assert result["told"] == "Answer in French.", result
    assert "French" in str(asked[-1].body["messages"][0]["content"])


def was_an_agent(result: Result, _: list[Asked]) -> None:
    assert is_the_speech(result["transcript"]), result
    assert result["answers"][0] == f"You said: {QUESTION}", result
    assert is_the_speech(result["answer"].removeprefix("You said: ")), result
    assert result["roles"][:3] == ["user", "assistant", "user"], result  # the last answer is kept a moment later


CHECKS: dict[str, Callable[[Result, list[Asked]], None]] = {
    "turn_by_voice": has_answered_speech,
    "turn_by_hand": has_answered_speech,
    "typed": has_answered,
    "interruption": has_answered_speech,
    "history": has_restored,
    "instructions": has_instructed,
    "errors": has_erred,
    "secret": has_been_told,
    "agent": was_an_agent,
    "guide": has_answered,
    "transcription": has_heard,
    "transcription_of_context": has_heard,
    "vllm": has_heard,
    "file": has_heard,
}


# ── running one ─────────────────────────────────────────────────────────────────────────────────────────────────────


def skip_what_is_missing(client: Client) -> None:
    missing = ENVIRONMENTS / f"{client.group}.missing"
    if missing.exists():
        pytest.skip(missing.read_text())
    assert (ENVIRONMENTS / f"{client.group}.done").exists(), "`make test-clients` installs the clients"


def finished(script: subprocess.Popen[str], *, quiet: re.Pattern[str] | None = None) -> Result:
    """The last thing that it told.  It has ended well and has complained of nothing, but for lines like `quiet`."""
    try:
        told, log = script.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        script.kill()
        told, log = script.communicate()
        raise AssertionError(f"it did not end:\n{told}\n{log}") from None
    assert script.returncode == 0, f"{told}\n{log}"
    complaints = [line for line in log.splitlines() if COMPLAINT.search(line) and not (quiet and quiet.search(line))]
    assert quiet or not complaints, log
    return dict(json.loads(told.splitlines()[-1]))


def parameters(*, restart: bool) -> list[Any]:
    return [
        pytest.param(client, scenario, id=f"{client.name}: {scenario}")
        for client in CLIENTS
        for scenario in client.scenarios
        if (scenario == "restart") == restart
    ]


@pytest.mark.parametrize(("client", "scenario"), parameters(restart=False))
def test_a_client(client: Client, scenario: str, request: pytest.FixtureRequest) -> None:
    skip_what_is_missing(client)
    here: Stage = request.getfixturevalue("encrypted" if client.tls else "plain")
    before = len(here.chat.asked)
    result = finished(here.script(client, scenario))
    CHECKS[scenario](result, here.chat.asked[before:])
    passed.setdefault(client.name, []).append(scenario)


@pytest.mark.parametrize("kept", [True, False], ids=["socket activation", "by itself"])
@pytest.mark.parametrize(("client", "scenario"), parameters(restart=True))
def test_a_client_comes_back_after_a_restart(client: Client, scenario: str, kept: bool, tmp_path: Path) -> None:
    """With its own defaults: LiveKit gives up after four tries within 4.1 s, the SDK of Python after five."""
    skip_what_is_missing(client)
    with stage(tmp_path, tls=client.tls, kept=kept) as here:
        with here.daemon() as daemon:
            script = here.script(client, scenario)
            assert script.stdout is not None
            assert script.stdin is not None
            line = script.stdout.readline()
            assert json.loads(line or "{}") == {"ready": True}, f"{line}\n{script.communicate()}"
            script.stdin.write("stopped\n")
            script.stdin.flush()
            daemon.process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            assert daemon.ended(60)
        with here.daemon():
            took = time.monotonic() - begun
            result = finished(script, quiet=EXPECTED_OF_A_RESTART)
    assert not result.get("gave_up"), f"the restart took {took:.1f} s: {result}"
    for answer in result["answers"]:  # LiveKit restores the conversation by itself: what was said last is the answer
        assert answer.endswith(f"You said: {QUESTION}"), result
    if kept:
        passed.setdefault(client.name, []).append(scenario)


def test_the_table_of_the_page_is_what_this_run_has_seen() -> None:
    """Of every client that has run to its end."""
    RESULTS.write_text(json.dumps(passed, indent=1))
    whole = {client.name for client in CLIENTS if set(client.scenarios) == set(passed.get(client.name, ()))}
    missing = {client.name for client in CLIENTS if (ENVIRONMENTS / f"{client.group}.missing").exists()}
    assert whole | missing == {client.name for client in CLIENTS}, "some have failed, or only some were run"
    shown = table.shown()
    found = {name: row for name, row in table.rows(passed).items() if name in whole}
    assert found == {name: row for name, row in shown.items() if name in whole}, "python -m tests.clients.table"
