"""Whole sessions for `leaving`: `python -m tests.chaos.whole_sessions NAME`, half a minute of real speech each.

Libraries that phone home wait a while before they do, so a session lasts longer than their patience (onnxruntime: 9 s).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile

from shared.audio import RATE
from tests.support.chat_server import ChatServer
from tests.support.daemon import environment, voxd_process
from tests.support.speech import clip

SPEECH = ("librivox_austen_0870", "ps_goforward")
PAUSE_S = 8
LIMIT_S = 240


def recording(path: Path) -> Path:
    pause = np.zeros(PAUSE_S * RATE, np.float32)
    pieces = [piece for name in SPEECH for piece in (clip(name).samples().astype(np.float32), pause)]
    soundfile.write(path, np.concatenate(pieces), RATE, subtype="PCM_16")
    return path


def session(kind: str, folder: Path) -> int:
    """A daemon with such engines, a client that plays half a minute to it."""
    sound, config = recording(folder / "clip.wav"), folder / "config.yaml"
    with ExitStack() as opened:
        if kind == "cascade":
            server = opened.enter_context(ChatServer().running())
            engines, options = ("whisper", "cascade"), {"cascade": {"url": server.url}}
        else:
            from tests.support.tiny_mini import folder as mini
            from tests.support.tiny_voxtral import folder as realtime

            engines = ("voxtral-realtime", "voxtral-mini")
            options = {
                "voxtral-realtime": {"model": str(realtime(1)), "device": "cpu", "max_streams": 2},
                "voxtral-mini": {"model": str(mini(0, ends=True)), "device": "cpu", "max_conversations": 2},
            }
        config.write_text(json.dumps({"engine_options": options}))
        arguments = ["--config", str(config), "--transcribe", engines[0], "--respond", engines[1]]
        daemon = opened.enter_context(voxd_process(*arguments, env={"OMP_NUM_THREADS": "1"}, ready_s=LIMIT_S))
        command = [sys.executable, "-m", "voxtui", "connect", f"unix:{daemon.socket}", "--file", str(sound), "--plain"]
        done = subprocess.run(command, env=environment(folder), capture_output=True, timeout=LIMIT_S, check=False)
        heard = done.stdout.decode()
        assert done.returncode == 0, done.stderr.decode()
        assert "you:" in heard, heard
        assert "voxd:" in heard, heard
        leftovers = [str(path) for path in daemon.folder.rglob("*") if "onnxruntime" in str(path)]
        assert leftovers == []
    return 0


def transcribe(folder: Path) -> int:
    """Of files, with a daemon of its own: it hurries, so there are several."""
    sounds = [recording(folder / f"{number}.wav") for number in range(4)]
    command = [sys.executable, "-m", "voxtui", "transcribe", *map(str, sounds)]
    return subprocess.run(command, env=environment(folder), timeout=LIMIT_S, check=False).returncode


def demo(folder: Path) -> int:
    """`make demo`, its installation aside, in whose place stands the one of the tests."""
    (folder / "Makefile").write_text((Path(__file__).parent.parent.parent / "Makefile").read_text())
    (folder / ".venv-demo").symlink_to(sys.prefix)
    command = ["make", "--assume-old=.venv-demo/.done", "demo"]
    return subprocess.run(command, cwd=folder, env=environment(folder), timeout=LIMIT_S, check=False).returncode


def main(name: str) -> int:
    with tempfile.TemporaryDirectory(prefix="vx-") as folder:
        kinds = {"demo": demo, "transcribe": transcribe}
        found = kinds[name](Path(folder)) if name in kinds else session(name, Path(folder))
        assert not list(Path(folder).rglob(".onnxruntime")), "onnxruntime has made a store for what it means to send"
        return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
