"""The engine `cascade`, or a whole voxd around it, whose answers come from a chat server of the test's own."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.chat_server import ChatServer, Script, repeats
from tests.support.daemon import Daemon, voxd_process
from voxd.engine.cascade.engine import Cascade
from voxd.engine.contract import EngineCommand
from voxd.engine.registry import GROUP, names
from voxd.messages import Failed, Open, Output, Respond, Said, Settled, Turn

PATIENCE_S = 120.0
QUESTION = (Turn("user", "Who are you?"),)

ROOT = Path(__file__).parents[2]


def _entry_point(folder: Path) -> dict[str, str]:
    """The environment in which voxd finds the engine, also where what is installed is older than this tree."""
    if "cascade" in names():
        return {}
    info = folder / "cascade-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cascade\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ncascade = voxd.engine.cascade.engine:Cascade\n")
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


class Talker:
    """The engine as the loop drives it, one stream open."""

    def __init__(self, url: str, **options: object) -> None:
        self._woken = threading.Event()
        self.engine = Cascade({"url": url, **options}, self._woken.set)
        self.notes = self.engine.load(lambda _: None)
        self.out: list[Output] = []
        self.tell(Open(1, ("respond",)))

    def tell(self, command: EngineCommand) -> None:
        self.engine.receive(command)
        self.step()

    def step(self) -> None:
        self._woken.clear()
        self.out += self.engine.step(0)

    def until(self, seen: Callable[[], bool]) -> None:
        latest = time.monotonic() + PATIENCE_S
        while not seen():
            assert self._woken.wait(latest - time.monotonic()), f"it has not come; there is {self.out}"
            self.step()

    def ask(self, context: tuple[Turn, ...] = QUESTION, ref: int = 1, max_tokens: int | None = None) -> None:
        self.tell(Respond(1, ref, context, max_tokens))

    def answer(self, context: tuple[Turn, ...] = QUESTION, ref: int = 1, max_tokens: int | None = None) -> Output:
        """How it ended."""
        self.ask(context, ref, max_tokens)
        self.until(lambda: self.ending(ref) is not None)
        return self.ending(ref)  # type: ignore[return-value]

    def ending(self, ref: int) -> Output | None:
        return next((o for o in self.out if isinstance(o, Settled | Failed) and o.ref == ref), None)

    def said(self, ref: int = 1) -> list[str]:
        return [o.text for o in self.out if isinstance(o, Said) and o.ref == ref]


Talk = Callable[..., tuple[ChatServer, Talker]]


@contextmanager
def talks() -> Iterator[Talk]:
    """Makes a server with a script, and an engine that asks it."""
    with ExitStack() as opened:

        def make(
            script: Script = repeats, models: tuple[str, ...] | Script | None = ("tiny",), **options: object
        ) -> tuple[ChatServer, Talker]:
            server = opened.enter_context(ChatServer(script, models).running())
            talker = Talker(server.url, **{"timeout_s": 15, **options})
            opened.callback(talker.engine.stop)
            return server, talker

        yield make
