"""The engine process: `python -m voxd.engine FD`, started by the gateway, which holds the other end of socket FD.

It reads `Configure`, loads the engines it names, says `Ready` and runs the loop until `Stop` or until the gateway has
gone.
Only here are engines imported.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType

from shared.environment import begin
from voxd import framing, messages as m
from voxd.engine.contract import Engine, Unusable
from voxd.engine.device_memory import plan
from voxd.engine.loop import Inbox, Loop
from voxd.engine.registry import make
from voxd.engine.vad import Vad
from voxd.traces import Reticent

log = logging.getLogger("voxd.engine")
READER = "reader"  # the thread that reads what the gateway sends
FELL = 70  # the exit status after a fault: EX_SOFTWARE of sysexits.h
# What a device throws, by name, for nothing here imports a library of devices.  Its first line holds numbers only.
_OF_THE_DEVICE = {
    "OutOfMemoryError": "the device's memory is full",
    "AcceleratorError": "the device has failed",
}


class Link:
    """The socket to the gateway.  Writing blocks while the gateway is behind; its loss ends the process."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unframer, self._joiner = framing.commands(), framing.Joiner()

    def publish(self, reports: list[m.Report]) -> None:
        try:
            self._sock.sendall(b"".join(map(_encoded, reports)))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)  # the gateway is gone: nobody is left to serve

    def commands(self) -> Iterator[list[m.Command]]:
        """As they come together, until the gateway closes its end."""
        while data := self._receive():
            whole = map(self._joiner.receive, self._unframer.feed(data))
            yield [command for command in whole if command is not None]

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(1 << 20)
        except ConnectionResetError:
            return b""


def _encoded(report: m.Report) -> bytes:
    """What an engine says that cannot be written (half of a surrogate pair, more than a message may hold) costs the
    turn that it is about."""
    try:
        return framing.encode(report)
    except framing.Unsendable as error:
        log.error("an engine says what cannot be sent: %s", error)
        if not isinstance(report, m.StreamMessage):
            raise
        message = "The engine's answer cannot be sent; see voxd's log."
        return framing.encode(m.Failed(report.stream, getattr(report, "ref", None), "engine_error", message))


def build(configure: m.Configure, inbox: Inbox, link: Link) -> tuple[dict[m.Role, Engine], m.Ready]:
    """Imports, makes and loads the engines; one object if both roles name the same.  Raises `Unusable`."""
    wanted: dict[m.Role, str | None] = {"transcribe": configure.transcribe, "respond": configure.respond}
    made = make(wanted, configure.settings, inbox.wake)
    notes = [*_share(made)]
    for engine in made.values():
        notes += engine.load(lambda text: link.publish([m.Progress(text)]))
    engines = {role: made[name] for role, name in wanted.items() if name is not None}
    responder, transcriber = engines.get("respond"), engines.get("transcribe")
    ready = m.Ready(
        configure.transcribe,
        configure.respond,
        speculates=responder is not None and responder.capabilities.speculates,
        notes=tuple(notes),
        delay_ms=transcriber.delay_ms if transcriber is not None else None,
        reads_text=responder is not None and responder.capabilities.reads_text,
        languages=transcriber.languages if transcriber is not None else (),
        guided_by=transcriber.capabilities.guided_by if transcriber is not None else (),
    )
    return engines, ready


def _share(engines: Mapping[str, Engine]) -> tuple[str, ...]:
    """Each gets its part of the device's memory, before the first takes any.  Returns lines for the user; raises
    `Unusable`."""
    demands = {name: demand for name, engine in engines.items() if (demand := engine.demand()) is not None}
    if not demands:
        return ()
    shares = plan(_free_memory(), demands)
    for name, units in shares.units.items():
        engines[name].grant(units)
    return shares.lines


def _free_memory() -> int:
    """Of the device, bytes."""
    import torch  # only engines that demand some have it

    return int(torch.cuda.mem_get_info()[0])


def serve(link: Link) -> int:
    """The exit status: 0 after Stop, 1 if an engine cannot be used here."""
    batches = link.commands()
    configure = next(filter(None, batches), [None])[0]
    if not isinstance(configure, m.Configure):
        return 1
    inbox = Inbox()

    def read() -> None:
        for batch in batches:
            inbox.put(*batch)
        os._exit(0)  # the gateway closed its end without Stop

    # From here on, for the gateway may be killed while weights are loaded, and nobody else would end this process.
    threading.Thread(target=read, name=READER, daemon=True).start()
    try:
        engines, ready = build(configure, inbox, link)
    except Unusable as reason:
        link.publish([m.Broken(str(reason), configuration=True)])
        return 1
    loop = Loop(engines, Vad(), inbox, link.publish)
    link.publish([ready])
    loop.run()
    return 0


def fall(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    """The last word on an exception that nobody caught: says what it was, without what anybody said, and ends the
    process at once, for after a fault of the device an orderly end may wait for it for ever."""
    told = _OF_THE_DEVICE.get(kind.__name__)
    what = f"{told} ({str(error).partition(chr(10))[0]})" if told else "a bug in an engine"
    log.critical("the engine process ends: %s", what, exc_info=(kind, error, frames))
    sys.stderr.flush()
    os._exit(FELL)


def _fall_with_reader(args: threading.ExceptHookArgs) -> None:
    """Without its reader the process would be deaf, and beat on."""
    if args.thread is None or args.thread.name != READER or args.exc_value is None:
        threading.__excepthook__(args)
        return
    fall(args.exc_type, args.exc_value, args.exc_traceback)


def main() -> int:
    begin(os.environ)
    sys.excepthook, threading.excepthook = fall, _fall_with_reader
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Reticent("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # it tells of every decode
    for number in (signal.SIGINT, signal.SIGTERM):  # the gateway's to handle: it stops this process in order
        signal.signal(number, signal.SIG_IGN)
    return serve(Link(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    sys.exit(main())
