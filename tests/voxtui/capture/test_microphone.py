"""A real microphone, as far as a machine without a sound card has one: a private PulseAudio plays a clip into a room,
and PortAudio listens there through ALSA.  From the voice to the words on standard output, through the whole stack."""

from __future__ import annotations

import asyncio
import ctypes.util
import importlib.util
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fakes import short_folder
from tests.support.speech import clip
from voxtui.commands.local import NEEDED, private_voxd

TOOLS = ("pulseaudio", "pacat")
ALSA = """
</usr/share/alsa/alsa.conf>
pcm.!default {{ type pulse server "unix:{socket}" }}
ctl.!default {{ type pulse server "unix:{socket}" }}
"""


def why_not() -> str:
    """The reason why this machine cannot run the test; "" if it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    missing += [name for name in NEEDED if importlib.util.find_spec(name) is None]
    missing += [] if ctypes.util.find_library("portaudio") else ["libportaudio2"]
    plugins = Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")
    missing += [] if any(plugins) else ["libasound2-plugins"]
    return f"needs {', '.join(missing)}" if missing else ""


pytestmark = [pytest.mark.audio, pytest.mark.skipif(bool(why_not()), reason=why_not())]


async def stop(child: Process, how: signal.Signals) -> None:
    if child.returncode is None:
        child.send_signal(how)
    await child.wait()


async def line_with(reader: asyncio.StreamReader | None, words: str) -> str:
    """Reads on until a line holds the words; fails with all that was read when the stream ends."""
    assert reader is not None
    read = ""
    while line := (await reader.readline()).decode(errors="replace"):
        read += line
        if words in line:
            return line
    pytest.fail(f"{words!r} is not in:\n{read}")


@asynccontextmanager
async def room() -> AsyncIterator[dict[str, str]]:
    """A sound server with one room, whose echo is the default microphone; yields the environment to find it with."""
    with short_folder() as folder:
        socket = folder / "pulse.sock"
        config = folder / "asound.conf"
        config.write_text(ALSA.format(socket=socket))
        private = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "XDG_CONFIG_HOME": str(folder), "LC_ALL": "C"}
        environ = {**os.environ, **private, "PULSE_SERVER": f"unix:{socket}", "ALSA_CONFIG_PATH": str(config)}
        modules = (f"module-native-protocol-unix socket={socket} auth-anonymous=1", "module-null-sink sink_name=room")
        loads = [part for module in modules for part in ("-L", module)]
        quiet = (
            "--daemonize=no",
            "--exit-idle-time=-1",
            "--use-pid-file=no",
            "--log-level=info",
            "--log-target=stderr",
        )
        child = await asyncio.create_subprocess_exec("pulseaudio", "-n", *quiet, *loads, env=environ, stderr=PIPE)
        try:
            async with asyncio.timeout(60):
                await line_with(child.stderr, "Daemon startup complete")
            yield environ
        finally:
            await stop(child, signal.SIGKILL)


async def play(environ: dict[str, str], pcm: bytes) -> None:
    """Plays a sound into the room, behind half a second of quiet."""
    how = ("--playback", "--device=room", "--rate=16000", "--channels=1", "--format=s16le")
    child = await asyncio.create_subprocess_exec("pacat", *how, env=environ, stdin=PIPE, stderr=DEVNULL)
    await child.communicate(bytes(16_000) + pcm)


async def voxtui(environ: dict[str, str], *args: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "voxtui", *args, env=environ, stdout=PIPE, stderr=PIPE
    )


async def test_devices() -> None:
    async with room() as environ:
        out, _ = await (await voxtui(environ, "devices")).communicate()
    assert "* " in out.decode()
    assert "default" in out.decode()


@pytest.mark.slow
async def test_what_is_said_in_the_room_stands_on_standard_output() -> None:
    """Ctrl-C ends it, with the table of latencies on the other pipe."""
    async with room() as environ, private_voxd(lambda _: None) as target, asyncio.timeout(60):
        child = await voxtui(environ, "connect", "--plain", target.label)
        try:
            await line_with(child.stderr, "connected:")
            await play(environ, clip("librivox_austen_0880").pcm())
            said = await line_with(child.stdout, "young man")
            measured = await line_with(child.stderr, "final_ms=")
            child.send_signal(signal.SIGINT)
            _, err = await child.communicate()
        finally:
            await stop(child, signal.SIGKILL)
    assert said.startswith("He was not")
    assert "first_text_ms=" in measured
    assert b"p50" in err
    assert child.returncode == 130
