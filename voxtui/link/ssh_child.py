"""One ssh child: what it says, what it carries, how it ends.  Before step 2 of a packet's path.

It is the user's own ssh, so aliases, agents, keys and jump hosts work as they do in a shell.  It knows the lines of
`shared.tunnel`; not what is forwarded, nor when another child is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from asyncio import StreamReader, StreamWriter, subprocess
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from shared.safe_text import safe_line
from shared.tunnel import BEAT_S, LINE_MAX, PROTOCOL, Beat, Hello, Trouble, parse_line
from voxtui.errors import Misconfigured, Unreachable
from voxtui.link.ssh_errors import failure, other_protocol, silence

HELLO_S = 20.0  # to connect, to log in, and for the far program to start
STALE_S = 3 * BEAT_S  # without a beat for so long, nothing comes any more
END_S = 1.0  # for the child to end by itself, then on SIGTERM, then on SIGKILL
SAID = 40  # lines of standard error that are kept
CHUNK = 64 << 10

Tell = Callable[[str], None]


class _AnyHello(msgspec.Struct, tag_field="type", tag="hello"):
    """The field that the first line of every version of the protocol has."""

    version: str
    protocol: int


class Ssh:
    """A running child.  Its standard input stays open until `end`: the far program ends when it is closed, also by the
    death of this process."""

    def __init__(self, host: str, process: subprocess.Process) -> None:
        self._host, self._process = host, process
        self._said: deque[str] = deque(maxlen=SAID)
        self._news = asyncio.Event()  # a beat has come, or none will
        self._heard_at = 0.0  # in seconds of the loop's clock
        self._listener = asyncio.create_task(self._keep_errors())
        self._tasks = [self._listener]
        self.hello: Hello
        self.state = self.progress = self.token = ""

    @classmethod
    async def start(cls, host: str, command: Sequence[str]) -> Ssh:
        """Starts the child and returns it when it has said hello.  Raises Unreachable or Misconfigured with the
        reason."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                limit=LINE_MAX,
                start_new_session=True,  # Ctrl-C goes to this process only, and ssh has no terminal to ask on
            )
        except OSError as error:
            raise Misconfigured(f"{safe_line(command[0])} cannot be run: {error.strerror}.") from None
        ssh = cls(host, process)
        async with contextlib.AsyncExitStack() as unless_it_stands:
            unless_it_stands.push_async_callback(ssh.end)
            ssh.hello = await ssh._greeting()
            unless_it_stands.pop_all()
        ssh.state, ssh.progress, ssh.token = ssh.hello.state, ssh.hello.progress, ssh.hello.token
        return ssh

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    @property
    def lives(self) -> bool:
        """Whether the child runs and its beats still come, once `follow` was called."""
        return self.runs and asyncio.get_running_loop().time() - self._heard_at <= STALE_S

    @property
    def said(self) -> Sequence[str]:
        """The last lines of the child's standard error, as they came: not fit for a terminal."""
        return self._said

    async def _greeting(self) -> Hello:
        trouble: Trouble | None = None
        try:
            async with asyncio.timeout(HELLO_S):
                while data := await _line(self._out):  # other lines greet from the far shell
                    line = parse_line(data)
                    self._same_protocol(data)
                    if isinstance(line, Hello):
                        return line
                    if isinstance(line, Trouble):
                        trouble = line
        except TimeoutError:
            raise silence(self._host, HELLO_S, self.said) from None
        raise await self._failure(trouble)

    def _same_protocol(self, data: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            hello = msgspec.json.decode(data, type=_AnyHello)
            if hello.protocol != PROTOCOL:
                raise other_protocol(self._host, hello.version, hello.protocol)

    async def _failure(self, trouble: Trouble | None = None) -> Unreachable:
        """The error for why standard output ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await self._process.wait()
        await asyncio.wait([self._listener], timeout=END_S)
        return failure(self._host, self._process.returncode, self.said, trouble)

    async def _keep_errors(self) -> None:
        assert self._process.stderr is not None
        while data := await _line(self._process.stderr):
            self._said.append(data.decode(errors="replace"))

    # ---- beside a forwarding: beats ----------------------------------------------------------------------------------

    def follow(self) -> None:
        """Reads the child's beats from now on."""
        self._heard()
        self._tasks.append(asyncio.create_task(self._follow()))

    async def _follow(self) -> None:
        while data := await _line(self._out):
            if isinstance(beat := parse_line(data), Beat):
                self.state, self.progress, self.token = beat.state, beat.progress, beat.token or self.token
                self._heard()
        self._heard_at = float("-inf")
        self._news.set()

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._news.set()

    async def ready(self, tell: Tell) -> None:
        """Returns when the daemon no longer loads; `tell` is given its progress.  Raises Unreachable."""
        shown = None
        while self.state == "loading":
            if self.progress != shown:
                shown = self.progress
                tell(still_loading(shown))
            self._news.clear()
            try:
                async with asyncio.timeout(STALE_S):
                    await self._news.wait()
            except TimeoutError:
                raise silence(self._host, STALE_S, self.said) from None
            if not self.lives:
                raise await self._failure()

    # ---- instead of a forwarding: one connection ---------------------------------------------------------------------

    def carry(self) -> socket.socket:
        """Returns a socket; what is written to it goes to the far program's standard input, and back."""
        near, inner = socket.socketpair()
        self._tasks.append(asyncio.create_task(self._carry(inner)))
        return near

    async def _carry(self, inner: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=inner)
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(_copy(reader, self._in))
                directions.create_task(_copy(self._out, writer))
        finally:
            writer.close()

    # ---- the end -----------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Closes the child's standard input; if that does not end it, sends SIGTERM, then SIGKILL."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stop in (self._in.close, self._process.terminate, self._process.kill):
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                stop()
                async with asyncio.timeout(END_S):
                    await self._process.communicate()  # a full pipe must not keep it from ending
                    return

    @property
    def _in(self) -> StreamWriter:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _out(self) -> StreamReader:
        assert self._process.stdout is not None
        return self._process.stdout


def still_loading(progress: str) -> str:
    return safe_line(f"engine still loading: {progress}" if progress else "engine still loading")


async def _line(stream: StreamReader) -> bytes:
    """The next line, b"" at the end; a line longer than LINE_MAX comes in pieces."""
    while True:
        with contextlib.suppress(ValueError):
            return await stream.readline()


async def _copy(source: StreamReader, sink: StreamWriter) -> None:
    """Copies until the source ends; then closes the sink."""
    with contextlib.suppress(ConnectionError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
    sink.close()
