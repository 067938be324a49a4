"""The page for operators is true: each of its commands is run where voxd is a service of a real systemd."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import unix_connect

from shared import __version__
from tests.support.sdbox import ECHO, SETTINGS, Box, add_version, installed, records, reset, show, state, until
from tests.support.speech import clip

pytestmark = [pytest.mark.slow, pytest.mark.root]
PAGE = (Path(__file__).parents[2] / "docs" / "OPERATE.md").read_text()
LONG = "frame" * 1000
FAILED_SOMETIMES = ECHO + "performance_targets: {total_latency_ms: 1}\nengine_options: {echo: {tokens: 3}}\n"


def commands() -> Iterator[str]:
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        yield from (line for line in block.splitlines() if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A service with something in its journal: turns of both kinds, targets missed, an engine process lost."""
    with installed(tmp_path_factory.mktemp("box")) as box:
        reset(box)
        box.put(SETTINGS, FAILED_SOMETIMES)
        box.run("systemctl", "start", "voxd.socket", "voxd")
        with unix_connect(str(box.socket), "ws://localhost/v1/realtime") as link:
            sound = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}, "transcription": {}}}}
            link.send(json.dumps({"type": "session.update", "session": sound}))
            data = base64.b64encode(clip("ps_goforward").pcm() + bytes(32_000)).decode()
            link.send(json.dumps({"type": "input_audio_buffer.append", "audio": data}))
            while json.loads(link.recv(30))["type"] != "response.done":
                pass
            link.send(json.dumps({"type": "response.create", "response": {"instructions": "Count."}}))
            box.run("kill", "-KILL", str(state(box)["engine_pid"]))
        until(lambda: state(box)["state"] == "ready", "another engine process")
        box.run("logger", "--journald", text=f"MESSAGE=a bug\nEXCEPTION={LONG}\nOBJECT_PID={show(box, 'MainPID')}\n")
        until(lambda: bool(records(box, "MESSAGE=a bug")), "its record")
        yield box


def test_every_command_runs(box: Box) -> None:
    """In the order of the page.  A package index is not asked: the new version comes from this tree."""
    said: list[tuple[str, str, str]] = []
    for line in commands():
        if "pip install" in line:
            add_version(box, "0.2.0")
            continue
        limit = "timeout 3 " if "--follow" in line else ""
        script = f"set -o pipefail; export PATH=/opt/voxd/current/bin:$PATH; {limit}{line}"
        text, _, code = box.run("bash", "-c", f'{{ {script}\n}} 2>&1; echo "status $?"').rpartition("status ")
        said.append((line, text, code))
    versions = [text.split()[1] for line, text, _ in said if line.partition("#")[0].strip() == "voxd status"]

    assert len(said) > 30
    assert [each for each in said if each[2] != ("124" if "--follow" in each[0] else "0")] == []
    assert versions == [__version__, __version__, "0.2.0", __version__]
    assert any(LONG in text for _, text, _ in said), "a trace over 4 KiB"
    assert re.search(r"\d response.done\techo\n", "".join(text for _, text, _ in said))
