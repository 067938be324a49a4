"""`voxtui connect HOST` as a person types it: a real sshd, a real daemon, the words, and what is told if it fails."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Mapping

import pytest

from tests.support.daemon import Daemon, voxd_process
from tests.support.speech import FOLDER
from tests.support.sshd import Sshd, sshd
from voxtui.link.target import Address, unix_target
from voxtui.link.websocket import dial

CLIP = str(FOLDER / "librivox_austen_0880.flac")


async def voxtui(box: Sshd, *args: str, env: Mapping[str, str] = {}) -> tuple[int | None, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "voxtui", *args, stdout=PIPE, stderr=PIPE, env={**os.environ, **box.env, **env}
    )
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


def knows(daemon: Daemon) -> dict[str, str]:
    return {"VOXD_SERVER_SOCKET": str(daemon.socket)}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", env={"VOXD_SERVER_MAX_SESSIONS": "1"}) as running:
        yield running


@pytest.fixture(scope="module")
def box(daemon: Daemon) -> Iterator[Sshd]:
    with sshd(far=knows(daemon)) as running:
        yield running


async def test_words_from_a_host(box: Sshd) -> None:
    code, out, err = await voxtui(box, box.host, "--plain", "--file", CLIP)
    assert code == 0, err
    assert out.startswith("one two three")
    assert "connected: ssh:box" in err


async def test_files_are_transcribed_there(box: Sshd) -> None:
    code, out, err = await voxtui(box, "transcribe", "--target", box.host, CLIP)
    assert code == 0, err
    assert out.startswith("one two three")


async def test_all_slots_taken(box: Sshd, daemon: Daemon) -> None:
    target = unix_target(daemon.socket)
    first = await dial(Address(target.url, target.socket), "x")
    code, _, err = await voxtui(box, box.host, "--plain", "--file", CLIP)
    await first.close()
    assert code == 69
    assert "ssh:box is full: All 1 sessions are taken" in err


@pytest.mark.slow
async def test_an_engine_that_still_loads_is_waited_for_with_its_progress() -> None:
    with voxd_process("--transcribe", "whisper", ready=False) as loading:
        while not loading.socket.exists():
            await asyncio.to_thread(loading.ended, 0.01)
        with sshd(far=knows(loading)) as box:
            code, out, err = await voxtui(box, box.host, "--plain", "--file", CLIP)
    assert code == 0, err
    assert "He was not" in out
    if "loading" not in err:
        pytest.skip("the engine was ready before ssh was")


async def test_nobody_there_is_told_in_one_line(box: Sshd, daemon: Daemon) -> None:
    with sshd(far={"VOXD_SERVER_SOCKET": f"{daemon.folder}/none.sock"}) as empty:
        code, _, err = await voxtui(empty, empty.host, "--plain", "--file", CLIP)
    assert code == 69
    assert len(err.splitlines()) == 1
    assert "systemctl start voxd" in err
