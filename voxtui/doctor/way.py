"""Gathers what the doctor asks of the way to voxd and of voxd itself, up to words for a spoken clip.

Not in the path.  It knows sockets and the client; not what a fact means, nor how it is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket as sockets
import time
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from statistics import median
from urllib.parse import urlsplit

import msgspec
from websockets.exceptions import ConnectionClosed, WebSocketException

from shared.audio import RATE
from voxtui.capture.sources import CLIP, FileSource, read_clip
from voxtui.doctor.facts import Answer, Failure, Forward, Knock, LinkCheck, Status, Tunnel, Way, Words
from voxtui.doctor.machine import ssh_config, ssh_forwards, ssh_version
from voxtui.errors import ClientError, Misconfigured, SourceError
from voxtui.events import Event, Measured
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.http_client import complaint, get, unix_opened
from voxtui.link.proxy import Proxy
from voxtui.link.ssh_child import still_loading
from voxtui.link.ssh_tunnel import ssh_command
from voxtui.link.target import Address, Route, Target
from voxtui.link.websocket import dial
from voxtui.session.run import Run

KNOCK_S = 4.0  # for a connection and for what the other side says first
TUNNEL_S = 10.0
ANSWER_S = 4.0
WORDS_S = 12.0  # for the clip and for all that comes of it
PINGS = 5
SENTENCE = slice(round(7.5 * RATE), None)  # its second sentence behind 0.4 s of room: 3.7 s
LOCAL_PORTS = ("", "localhost", "127.0.0.1", "[::1]", "*")

Opening = Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


# ── the way ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def look_at_way(target: Target, route: Route, environ: Mapping[str, str]) -> Way:
    """Opens the way to voxd, which `route` uses from then on.  Takes KNOCK_S and TUNNEL_S at most."""
    if target.ssh is not None:
        return await _over_ssh(target.ssh, route, environ)
    if target.socket is not None:
        knock = await knock_at(str(target.socket), unix_opened(target.socket))
        return Way("unix", True, knock, forwards=await find_forwards(target))
    if (proxy := target.proxy) is not None:
        knock = await knock_at(proxy.place, asyncio.open_connection(proxy.host, proxy.port))
        return Way("tcp", False, knock, proxy=proxy.variable)
    parts = urlsplit(target.url)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    knock = await knock_at(parts.netloc, asyncio.open_connection(parts.hostname, port))
    return Way("tcp", target.loopback, knock, forwards=await find_forwards(target))


async def _over_ssh(host: str, route: Route, environ: Mapping[str, str]) -> Way:
    try:
        command = ssh_command(environ)
    except Misconfigured as error:
        return Way("ssh", False, Knock(host, failure="missing", trouble=str(error)), ssh=None)
    version, config = await asyncio.gather(ssh_version(command), ssh_config([*command, host]))
    if config is None:
        knock = Knock(host, skipped="ssh does not tell where that is")
    elif config.proxy:
        knock = Knock(host, skipped=f"the way goes through {config.proxy}")
    else:
        knock = await knock_at_sshd(config.name, config.port)
    way = Way("ssh", False, knock, ssh=version)
    return way if version is None or knock.failure else replace(way, tunnel=await dig(route))


async def dig(route: Route) -> Tunnel:
    """Opens voxtui's own tunnel.  It does not wait for a voxd that still loads behind it."""
    loading: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def tell(line: str) -> None:
        if line.startswith(still_loading("")) and not loading.done():
            loading.set_result(line)

    began = time.monotonic()
    digging = asyncio.ensure_future(route.address(tell))
    try:
        await asyncio.wait((digging, loading), timeout=TUNNEL_S, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            return Tunnel(_since(began), loading=loading.result())
        if not digging.done():
            return Tunnel(trouble=f"It does not stand within {TUNNEL_S:.0f} s.")
        address = digging.result()
    except ClientError as error:
        return Tunnel(trouble=str(error))
    finally:
        await _cancelled(digging)
    if address.open is not None:
        address.open.close()
        return Tunnel(_since(began), "standard input and output")
    return Tunnel(_since(began), "a UNIX socket" if address.socket is not None else "a TCP port")


async def _cancelled(work: asyncio.Future[Address]) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def find_forwards(target: Target) -> tuple[Forward, ...]:
    """The ssh processes of this user that forward to what the target names."""
    found = []
    for process in await ssh_forwards():
        config = process.config
        for listen, to in config.forwards:
            if _leads(listen, target):
                knock = Knock("") if config.proxy else await knock_at_sshd(config.name, config.port)
                found.append(Forward(process.pid, config.target, config.bare, listen, _bare(to), knock.banner))
    return tuple(found)


def _leads(listen: str, target: Target) -> bool:
    if target.socket is not None:
        return listen == str(target.socket)
    host, _, port = listen.rpartition(":")
    return target.loopback and host in LOCAL_PORTS and port == str(urlsplit(target.url).port)


def _bare(place: str) -> str:
    """The form `[localhost]:8000` as a person writes it."""
    host, bracket, port = place.removeprefix("[").partition("]")
    return host + port if bracket and ":" not in host else place


async def knock_at_sshd(host: str, port: int) -> Knock:
    """Reads what an SSH server says of itself, and sends it nothing."""
    return await knock_at(f"{host}:{port}", asyncio.open_connection(host, port), banner=True)


async def knock_at(place: str, opening: Opening, *, banner: bool = False) -> Knock:
    """Opens one connection and closes it at once; `banner`: after the other side has said that it is an SSH server."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(KNOCK_S):
            reader, writer = await opening
            knock = Knock(place, _since(began))
            with contextlib.closing(writer):
                return replace(knock, banner=await _banner(reader)) if banner else knock
    except TimeoutError:
        return Knock(place, failure="silent", trouble=f"no answer within {KNOCK_S:.0f} s")
    except (OSError, ValueError) as error:  # ValueError: a line without end
        return Knock(place, failure=_failure(error), trouble=_why(error))


async def _banner(reader: asyncio.StreamReader) -> str:
    """`OpenSSH_9.2p1` of `SSH-2.0-OpenSSH_9.2p1 Debian-2`; a server may say other lines before it.

    Raises ConnectionError."""
    while line := await reader.readline():
        if line.startswith(b"SSH-"):
            return line.decode(errors="replace").split("-", 2)[-1].split()[0]
    raise ConnectionResetError("it hangs up before it says that it is an SSH server")


def _failure(error: Exception) -> Failure:
    kinds: tuple[tuple[type[Exception], Failure], ...] = (
        (FileNotFoundError, "missing"),
        (ConnectionRefusedError, "refused"),
        (PermissionError, "denied"),
        (sockets.gaierror, "unknown"),
    )
    return next((failure for kind, failure in kinds if isinstance(_plain(error), kind)), "other")


def _why(error: Exception) -> str:
    error = _plain(error)
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, BlockingIOError):
        return "it is busy: more clients want to connect than it can take at once"
    if isinstance(error, sockets.gaierror):
        return "there is no such host"
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)


def _plain(error: Exception) -> Exception:
    """The last error of several: for a name with several addresses asyncio puts all of them into one text."""
    found = re.findall(r"\[Errno (\d+)\]", str(error))
    return OSError(int(found[-1]), os.strerror(int(found[-1]))) if found else error


def _since(began: float) -> float:
    return (time.monotonic() - began) * 1000


# ── voxd ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def ask_status(route: Route) -> Answer:
    """Sends GET /status over the way that a session would take."""
    try:
        async with asyncio.timeout(ANSWER_S):
            address = await route.address(lambda line: None)
            code, body = await get(address, "/status")
    except ClientError as error:
        return Answer(said=str(error))
    except TimeoutError:
        return Answer(said=f"voxd does not answer within {ANSWER_S:.0f} s")
    except (OSError, ValueError) as error:
        return Answer(said=_why(error))
    return understand(code, body, address.proxy)


def understand(code: int, body: bytes, proxy: Proxy | None = None) -> Answer:
    """Reads an HTTP answer that came through this proxy, if there is one."""
    if code == 200:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return Answer(code, msgspec.json.decode(body, type=Status))
    elif (found := complaint(body)) is not None:
        return Answer(code, said=found.message)
    if proxy is not None:
        return Answer(code, said=f"{proxy} stands between, and no voxd answers behind it (HTTP {code})")
    return Answer(code, said=f"somebody answers, but it is not a voxd (HTTP {code})")


async def open_link(route: Route) -> LinkCheck:
    """Opens a session, sends pings in it, and measures both."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(ANSWER_S):
            link = await dial(await route.address(lambda line: None), route.label)
            opened_ms = _since(began)
            try:
                pings = [await (await link.ping()) for _ in range(PINGS)]
            finally:
                await link.close()
    except ClientError as error:
        return LinkCheck(trouble=str(error))
    except TimeoutError:
        return LinkCheck(trouble=f"no session and no ping within {ANSWER_S:.0f} s")
    except (ConnectionClosed, WebSocketException) as error:
        return LinkCheck(trouble=f"the session is closed at once: {error}")
    return LinkCheck(opened_ms, median(pings) * 1000)


async def speak(route: Route) -> Words:
    """Plays a sentence in real time through a session; returns what was measured until it was done, or too late."""
    metrics: dict[str, float] = {}

    def take(event: Event) -> None:
        if isinstance(event, Measured):
            metrics.update(event.metrics.as_dict() | metrics)  # the first of a kind counts

    try:
        clip = read_clip(CLIP)[SENTENCE]
        async with asyncio.timeout(WORDS_S), RealtimeClient.connect(route, wishes=Wishes(), patience_s=0.0) as client:
            await Run(client, FileSource(CLIP.name, clip), take).run()
    except (ClientError, SourceError) as error:
        return Words(trouble=str(error))
    except TimeoutError:
        if not metrics:
            return Words(trouble=f"a spoken sentence has not become text within {WORDS_S:.0f} s")
    return Words(metrics)
