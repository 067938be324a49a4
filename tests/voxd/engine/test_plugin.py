"""A plug-in as somebody else would write it: a package of its own, installed with pip, named on voxd's command line."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.sync.client import unix_connect

from tests.support.daemon import voxd_process
from tests.support.speech import FOLDER, clip
from voxd.commands.control import NotRunning

ROOT = Path(__file__).parents[3]
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "voxd-parrot"
version = "1.2.3"

[project.entry-points."voxd.engines"]
parrot = "parrot:Parrot"
hungry = "parrot:Hungry"
thirsty = "parrot:Thirsty"
nameless = "parrot:Nobody"
odd = "parrot:odd"
torn = "parrot_torn:Engine"

[tool.setuptools]
py-modules = ["parrot", "parrot_torn"]
"""
PARROT = '''
"""Says how long it was spoken to."""

from voxd.engine.contract import Capabilities, Engine
from voxd.messages import Cancel, Close, Commit, Onset, Said, Settled


class Parrot(Engine):
    capabilities = Capabilities(("transcribe",), "counts what it hears")

    def __init__(self, options, wake):
        super().__init__(options, wake)
        self.open, self.out = {}, []

    def load(self, progress):
        progress("growing feathers")
        return ("parrot: on the shoulder",)

    def receive(self, command):
        match command:
            case Onset():
                self.open[command.stream, command.ref] = command
            case Cancel():
                self.open.pop((command.stream, command.ref), None)
            case Commit() if onset := self.open.pop((command.stream, command.ref), None):
                text = f"{(command.end - onset.start) // 1600} squawks"
                added = text.removeprefix(onset.said)
                self.out += [Said(command.stream, command.ref, added)]
                self.out += [Settled(command.stream, command.ref, "completed", onset.said + added)]
            case Close():
                self.open = {key: onset for key, onset in self.open.items() if key[0] != command.stream}
                self.out = [output for output in self.out if output.stream != command.stream]

    def step(self, now_us):
        out, self.out = self.out, []
        return out


class Hungry(Parrot):
    capabilities = Capabilities(("transcribe",), "wants more", needs=("no_such_seed", "no_such_feeder.tray"))


class Thirsty(Parrot):
    capabilities = Capabilities(("transcribe",), "wants water", needs=("no_such_water",), extra="water")


def odd():
    """Not an engine."""
'''
TORN = 'raise OSError("libbeak.so.1: cannot open shared object file")\n'


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The package is built and installed; the environment in which voxd finds it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "parrot.py").write_text(PARROT)
    (source / "parrot_torn.py").write_text(TORN)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return {"PYTHONPATH": f"{target}:{ROOT}"}


def python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_an_installed_plug_in_is_listed_with_its_package(plugins: dict[str, str]) -> None:
    done = python(plugins, "voxd", "engines", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = [row for row in json.loads(done.stdout) if row["name"] == "parrot"]
    assert found == {
        "name": "parrot",
        "package": "voxd-parrot",
        "roles": ["transcribe"],
        "live": False,
        "problem": None,
    }


def test_the_list_says_what_is_missing_for_each_and_breaks_at_none(plugins: dict[str, str]) -> None:
    done = python(plugins, "voxd", "engines", "--json")
    found = {row["name"]: row["problem"] for row in json.loads(done.stdout) if row["package"] == "voxd-parrot"}
    advice = found.pop("thirsty")
    assert re.fullmatch(
        r"needs no_such_water; install it with: pip install '\S+/source\d*\[water\]'", advice
    )  # its own
    assert found == {
        "parrot": None,
        "hungry": "needs no_such_seed, no_such_feeder.tray; install these modules",
        "nameless": "cannot be imported: module 'parrot' has no attribute 'Nobody'",
        "odd": "(parrot:odd) is not a subclass of voxd.engine.contract.Engine",
        "torn": "cannot be imported: libbeak.so.1: cannot open shared object file",
    }
    for_people = python(plugins, "voxd", "engines").stdout
    assert "parrot  (voxd-parrot)  ready to use\n    transcribe\n    counts what it hears\n" in for_people


def test_a_plug_in_keeps_its_promises_by_the_command(plugins: dict[str, str]) -> None:
    done = python(plugins, "voxd.engine.conformance", "parrot", "--clip", str(FOLDER / "ps_goforward.flac"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("parrot: every promise is kept\n")


def test_speech_goes_through_voxd_to_the_plug_in_and_its_text_to_the_client(plugins: dict[str, str]) -> None:
    speech = clip("ps_goforward").pcm()
    detection = {"type": "server_vad", "silence_duration_ms": 300}
    sound = {"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": detection}
    with (
        voxd_process("--transcribe", "parrot", env=plugins) as daemon,
        unix_connect(str(daemon.socket), "ws://localhost/v1/realtime?intent=transcription", compression=None) as link,
    ):
        assert daemon.status()["engines"] == {"transcribe": "parrot", "respond": None}
        assert "parrot: on the shoulder" in str(daemon.status()["notes"])

        def until(kind: str) -> dict[str, object]:
            while (event := json.loads(link.recv(20)))["type"] != kind:
                assert event["type"] != "error", event
            return dict(event)

        link.send(
            json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": {"input": sound}}})
        )
        until("session.updated")
        audio = base64.b64encode(speech + bytes(32_000)).decode()
        link.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        delta = until("conversation.item.input_audio_transcription.delta")["delta"]
        assert re.fullmatch(r"\d+ squawks", str(delta))
        assert until("conversation.item.input_audio_transcription.completed")["transcript"] == delta
        log = daemon.log.read_text()
    assert "growing feathers" in log


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hungry", "engine 'hungry' needs no_such_seed, no_such_feeder.tray; install these modules"),
        ("torn", "engine 'torn' cannot be imported: libbeak.so.1: cannot open shared object file"),
        ("odd", "engine 'odd' (parrot:odd) is not a subclass of voxd.engine.contract.Engine"),
        ("nobody", "no engine is called 'nobody'"),
    ],
)
def test_a_daemon_with_an_unusable_engine_says_why_and_exits_with_78(
    plugins: dict[str, str], name: str, told: str
) -> None:
    with voxd_process("--transcribe", name, env=plugins, ready=False) as daemon:
        assert daemon.ended(60)
        assert daemon.process.returncode == 78
        lines = daemon.log.read_text().splitlines()
        with pytest.raises(NotRunning):
            daemon.status()
    assert told in lines[-1]
    assert not any("Traceback" in line for line in lines)
