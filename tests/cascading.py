"""A voxd whose answers come from a chat server of the test's own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chat_server import ChatServer
from tests.daemon import Daemon, voxd_process
from voxd.engine import GROUP, names

ROOT = Path(__file__).parent.parent


def _entry_point(folder: Path) -> dict[str, str]:
    """The environment in which voxd finds the engine, also where what is installed is older than this tree."""
    if "cascade" in names():
        return {}
    info = folder / "cascade-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cascade\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ncascade = voxd.engine.cascade:Cascade\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@contextmanager
def voxd_and(server: ChatServer, transcribe: str, *, ready: bool = True, **options: object) -> Iterator[Daemon]:
    """`options`: of the engine, besides the address of the server."""
    with tempfile.TemporaryDirectory(prefix="vx-") as name:
        config = Path(name) / "config.yaml"
        config.write_text(json.dumps({"engine_options": {"cascade": {"url": server.url, **options}}}))
        arguments = ["--config", str(config), "--transcribe", transcribe, "--respond", "cascade"]
        with voxd_process(*arguments, env=_entry_point(Path(name)), ready=ready) as daemon:
            yield daemon
