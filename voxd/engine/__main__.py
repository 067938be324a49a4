"""The engine process: `python -m voxd.engine FD`, where FD is its end of a socket to the gateway.  Steps 6 and 9.

It reads `Configure`, loads the engines named there, reports `Ready` and runs the loop until `Stop` or until the gateway
has gone.  Engines are imported here and nowhere else.  It does not know sessions, turns or what an engine computes.
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
# Exceptions of a device, by name: nothing here imports its library.  The first line of their text holds numbers only.
_OF_THE_DEVICE = {
    "OutOfMemoryError": "the device's memory is full",
    "AcceleratorError": "the device has failed",
}


class GatewayLink:
    """The socket to the gateway.  Writing blocks while the gateway is behind; its loss ends the process."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unframer, self._joiner = framing.commands(), framing.Joiner()

    def publish(self, reports: list[m.Report]) -> None:
        try:
            self._sock.sendall(b"".join(map(_encoded, reports)))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)  # the gateway is gone, so there is nobody to serve

    def commands(self) -> Iterator[list[m.Command]]:
        """Batches of commands as they arrive, until the gateway closes its end."""
        while data := self._receive():
            whole = map(self._joiner.receive, self._unframer.feed(data))
            yield [command for command in whole if command is not None]

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(1 << 20)
        except ConnectionResetError:
            return b""


def _encoded(report: m.Report) -> bytes:
    """One framed report.  If it cannot be written (half of a surrogate pair, too large), its turn fails instead."""
    try:
        return framing.encode(report)
    except framing.Unsendable as error:
        log.error("an engine published something that cannot be sent: %s", error)
        if not isinstance(report, m.StreamMessage):
            raise
        message = "The engine's answer cannot be sent; see voxd's log."
        return framing.encode(m.Failed(report.stream, getattr(report, "ref", None), "engine_error", message))


def build(configure: m.Configure, inbox: Inbox, link: GatewayLink) -> tuple[dict[m.Role, Engine], m.Ready]:
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
    """Grants each engine its part of the device's memory, before any engine takes some.  Returns lines for the user;
    raises `Unusable`."""
    demands = {name: demand for name, engine in engines.items() if (demand := engine.demand()) is not None}
    if not demands:
        return ()
    shares = plan(_free_memory(), demands)
    for name, units in shares.units.items():
        engines[name].grant(units)
    return shares.lines


def _free_memory() -> int:
    """Bytes that are free on the device."""
    import torch  # installed wherever an engine demands memory

    return int(torch.cuda.mem_get_info()[0])


def serve(link: GatewayLink) -> int:
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

    # Reading begins now: the gateway may be killed while weights load, and then nobody else would end this process.
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
    """Logs an exception that nobody caught, without anything that was said, and ends the process at once.

    After a fault of the device an orderly end could wait for the device for ever."""
    known = _OF_THE_DEVICE.get(kind.__name__)
    what = f"{known} ({str(error).partition(chr(10))[0]})" if known else "a bug in an engine"
    log.critical("the engine process ends: %s", what, exc_info=(kind, error, frames))
    sys.stderr.flush()
    os._exit(FELL)


def _fall_with_reader(args: threading.ExceptHookArgs) -> None:
    """Ends the process if its reader thread fails: without it no command would arrive, while heartbeats went on."""
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
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # it logs every decode
    for number in (signal.SIGINT, signal.SIGTERM):  # the gateway handles these and stops this process in order
        signal.signal(number, signal.SIG_IGN)
    return serve(GatewayLink(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    sys.exit(main())
