"""voxtui.link.proxy: which proxy a target has, the way through real ones, and what a person reads when there is none;
at the end the whole commands against a real daemon."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, environment, voxd_process
from tests.support.proxies import http_proxy, socks_proxy
from voxtui.capture.sources import CLIP
from voxtui.errors import Misconfigured, Unreachable
from voxtui.link.http_client import get
from voxtui.link.proxy import Proxy, proxy_for, through
from voxtui.link.target import Address, TargetError, behind_proxy, parse_target
from voxtui.link.webrtc import Leg, NoLeg
from voxtui.link.websocket import dial

FAR = "ws://voxd.example:8000/v1/realtime"
SOCKS = importlib.util.find_spec("python_socks") is not None
NAMES = ("ws_proxy", "wss_proxy", "socks_proxy", "https_proxy", "http_proxy", "all_proxy", "no_proxy")
VARIABLES = [*NAMES, *map(str.upper, NAMES)]


# ── which ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("target", "environ", "found"),
    [
        ("gpu:8000", {}, None),
        ("gpu:8000", {"HTTP_PROXY": "http://p:3128"}, ("http", "p", 3128, "HTTP_PROXY")),
        ("gpu:8000", {"http_proxy": "p:3128"}, ("http", "p", 3128, "http_proxy")),
        ("gpu:8000", {"HTTP_PROXY": "http://p", "HTTPS_PROXY": "http://q"}, ("http", "q", 80, "HTTPS_PROXY")),
        ("gpu:8000", {"ALL_PROXY": "socks5h://p"}, ("socks5h", "p", 1080, "ALL_PROXY")),
        ("gpu:8000", {"ALL_PROXY": "socks5h://[::1]:9"}, ("socks5h", "::1", 9, "ALL_PROXY")),
        ("gpu:8000", {"HTTPS_PROXY": "", "ALL_PROXY": "http://p:1/"}, ("http", "p", 1, "ALL_PROXY")),
        ("https://gpu", {"HTTP_PROXY": "http://p"}, None),
        ("https://gpu", {"HTTPS_PROXY": "http://p"}, ("http", "p", 80, "HTTPS_PROXY")),
        ("wss://gpu", {"WSS_PROXY": "http://p", "HTTPS_PROXY": "http://q"}, ("http", "p", 80, "WSS_PROXY")),
    ],
)
def test_the_proxy_of_a_target(target: str, environ: dict[str, str], found: tuple[str, str, int, str] | None) -> None:
    proxy = behind_proxy(parse_target(target), environ).proxy
    assert (proxy and (proxy.scheme, proxy.host, proxy.port, proxy.variable)) == found


@pytest.mark.parametrize(
    "target",
    [
        "localhost:1",
        "127.0.0.1:1",
        "127.1.2.3:1",
        "[::1]:1",
        "0.0.0.0:1",
        "https://localhost",
        "unix:/x",
        "me@gpu",
        "gpu",
    ],
)
def test_this_machine_and_what_ssh_reaches_have_none(target: str) -> None:
    """A proxy variable that is wrong does not matter there either."""
    assert behind_proxy(parse_target(target), dict.fromkeys(VARIABLES[:6], "nonsense://")).proxy is None


@pytest.mark.parametrize(
    ("listed", "host", "bypassed"),
    [
        ("*", "voxd.example", True),
        ("voxd.example", "voxd.example", True),
        ("other, VOXD.example", "voxd.example", True),
        (".example", "voxd.example", True),
        ("*.example", "voxd.example", True),
        ("example", "voxd.example", True),
        ("ample", "voxd.example", False),
        ("voxd.example:8000", "voxd.example", True),
        ("voxd.example:8001", "voxd.example", False),
        ("10.0.0.0/8", "10.7.7.7", True),
        ("10.0.0.0/8", "11.7.7.7", False),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7:8000", "10.0.0.7", True),
        ("fd00::/8", "[fd00::7]", True),
        ("fd00::7", "[fd00::7]", True),
        ("[fd00::7]:8000", "[fd00::7]", True),
        ("::1 , ,", "voxd.example", False),
        ("", "voxd.example", False),
    ],
)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_no_proxy(listed: str, host: str, bypassed: bool, name: str) -> None:
    environ = {"HTTPS_PROXY": "http://p", name: listed}
    assert (proxy_for(f"ws://{host}:8000/v1/realtime", environ) is None) == bypassed


@pytest.mark.parametrize(
    "text",
    [
        "https://p:1",
        "ftp://p",
        "socks6://p",
        "http://",
        "http://:9",
        "http://p:port",
        "http://[p",
        "http://p:0",
        "p p:1",
    ],
)
def test_a_variable_that_names_no_proxy(text: str) -> None:
    with pytest.raises(TargetError, match=r"ALL_PROXY.*write .*--no-proxy"):
        behind_proxy(parse_target("gpu:1"), {"ALL_PROXY": text})


def test_a_password_is_not_repeated() -> None:
    for scheme in ("http", "ftp"):
        environ = {"ALL_PROXY": f"{scheme}://me:sesame@p:1"}
        try:
            shown = f"{behind_proxy(parse_target('gpu:1'), environ)!r} {proxy_for(FAR, environ)}"
        except (TargetError, ValueError) as error:
            shown = str(error)
        assert "sesame" not in shown


# ── through ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def named(port: int, scheme: str = "http", user: str | None = None) -> Proxy:
    return Proxy(scheme, "127.0.0.1", port, "HTTPS_PROXY", user, "sesame" if user else "")


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_through_http() -> None:
    """Not a byte of what voxd says at once is lost; the name and password go to the proxy alone."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfine")
        writer.close()

    far = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with far, http_proxy(far.sockets[0].getsockname()[1]) as proxied:
        address = Address(FAR, token="key", proxy=named(proxied.port, user="me"))
        assert await get(address, "/health") == (200, b"fine")
    (asked,) = proxied.asked
    assert asked.startswith(b"CONNECT voxd.example:8000 HTTP/1.1\r\nHost: voxd.example:8000\r\n")
    assert b"Proxy-Authorization: Basic bWU6c2VzYW1l\r\n" in asked
    assert b"key" not in asked


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n<html>", Misconfigured, "refuses to connect there (HTTP 403 Forbidden)"),
        (b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n\r\n", Misconfigured, "wants a name and a password"),
        (b"HTTP/1.1 405 x\r\n\r\n", Misconfigured, "HTTP 405"),
        (b"HTTP/1.1 302 x\r\nLocation: http://login/\r\n\r\n", Misconfigured, "HTTP 302"),
        (b"HTTP/1.1 999 x\r\n\r\n", Unreachable, "HTTP 999"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", Unreachable, "does not reach that place (HTTP 502 Bad Gateway)"),
        (b"HTTP/1.1 504 x\r\n\r\n", Unreachable, "HTTP 504"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Misconfigured, "no HTTP proxy"),
        (b"\x05\xff", Misconfigured, "no HTTP proxy"),
        (b"HTTP/1.1 fine\r\n\r\n", Misconfigured, "no HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, Misconfigured, "no HTTP proxy"),
        (b"", Unreachable, "hangs up without an answer"),
    ],
)
async def test_what_keeps_from_it(answer: bytes, kind: type[Unreachable], words: str) -> None:
    async with http_proxy(answer=answer) as proxied:
        with pytest.raises(Unreachable) as failure:
            await dial(Address(FAR, proxy=named(proxied.port)), "voxd.example:8000")
    assert_told(failure.value, words, proxied.port)
    assert type(failure.value) is kind


@pytest.mark.parametrize(
    "scheme", ["http", pytest.param("socks5h", marks=pytest.mark.skipif(not SOCKS, reason="socks"))]
)
async def test_a_dead_proxy(scheme: str) -> None:
    port = closed_port()
    with pytest.raises(Unreachable) as failure:
        await through(named(port, scheme), FAR)
    assert_told(failure.value, "nobody listens there", port)


async def test_a_proxy_whose_name_nobody_knows() -> None:
    with pytest.raises(Unreachable, match=r"through the proxy no-such-host\.invalid:1 "):
        await through(Proxy("http", "no-such-host.invalid", 1, "ALL_PROXY"), FAR)


async def test_a_silent_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxtui.link.proxy.OPEN_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(Unreachable) as failure:
            await through(named(port), FAR)
    assert_told(failure.value, "does not answer within", port)


@pytest.mark.parametrize("head", [b"HTTP/1.1 403 x\r\n\r\n", b"HTTP/1.1 404 x\r\n\r\n<html>", b"welcome", b""])
async def test_somebody_else_behind_it(head: bytes) -> None:
    """The page of a hotel may answer, so it is not said that voxd's address is no voxd."""
    async with http_proxy(answer=b"HTTP/1.1 200 OK\r\n\r\n" + head) as proxied:
        with pytest.raises(Unreachable) as failure:
            await dial(Address(FAR, proxy=named(proxied.port)), "voxd.example:8000")
    assert_told(failure.value, "through the proxy", proxied.port)


def assert_told(error: Exception, words: str, port: int) -> None:
    said = str(error)
    assert words in said
    assert f"the proxy 127.0.0.1:{port} (HTTPS_PROXY)" in said
    assert "--no-proxy, or NO_PROXY=voxd.example" in said
    assert "not a voxd" not in said
    assert "\n" not in said


@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4", "socks4a"])
async def test_socks_without_python_socks(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with pytest.raises(Misconfigured) as failure:
        await through(named(1, scheme), FAR)
    assert_told(failure.value, "takes python-socks, which this voxtui lacks: `pip install ", 1)


async def test_no_udp_passes() -> None:
    with pytest.raises(NoLeg, match="no UDP passes the proxy") as failure:
        await Leg.open(Address(FAR, proxy=named(1)), "token")
    assert failure.value.final


# ── whole commands ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process(
        "--transcribe", "echo", "--listen", "127.0.0.1:0", "--no-token", "--allow-host", "voxd.example"
    ) as running:
        yield running


def port_of(daemon: Daemon) -> int:
    listening = daemon.status()["listen"]
    assert isinstance(listening, list)
    return int(str(listening[0]).rpartition(":")[2])


async def voxtui(folder: Path, *args: str, **environ: str) -> tuple[int, str, str]:
    base = {name: value for name, value in environment(folder).items() if name not in VARIABLES}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "voxtui", *args, env=base | environ, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(child.communicate(), 240)
    return child.returncode or 0, out.decode(), err.decode()


COMMANDS = [
    ("connect", "--plain", "--file", str(CLIP), "TARGET"),
    ("transcribe", "--target", "TARGET", str(CLIP)),
    ("bench", "TARGET", "--turns", "1", "--warmup", "0"),
]


def command(given: tuple[str, ...], target: str) -> list[str]:
    return [target if word == "TARGET" else word for word in given]


@pytest.mark.slow
@pytest.mark.parametrize("given", COMMANDS, ids=lambda given: given[0])
async def test_commands_through_a_proxy(given: tuple[str, ...], daemon: Daemon, tmp_path: Path) -> None:
    async with http_proxy(port_of(daemon)) as proxied:
        proxy = f"http://127.0.0.1:{proxied.port}"
        status, _, err = await voxtui(tmp_path, *command(given, "voxd.example:8000"), HTTPS_PROXY=proxy)
    assert status == 0, err
    assert proxied.asked


@pytest.mark.slow
@pytest.mark.parametrize("given", [*COMMANDS, ("doctor", "TARGET")], ids=lambda given: given[0])
@pytest.mark.parametrize("how", ["--no-proxy", "NO_PROXY", "loopback"])
async def test_commands_past_a_proxy(given: tuple[str, ...], how: str, daemon: Daemon, tmp_path: Path) -> None:
    """The proxy would refuse."""
    target = f"127.0.0.1:{port_of(daemon)}" if how == "loopback" else "voxd.invalid:8000"
    async with http_proxy(answer=b"HTTP/1.1 403 Forbidden\r\n\r\n") as proxied:
        environ = dict.fromkeys(("HTTP_PROXY", "https_proxy", "ALL_PROXY"), f"http://127.0.0.1:{proxied.port}")
        environ |= {"NO_PROXY": ".invalid"} if how == "NO_PROXY" else {}
        extra = ["--no-proxy"] if how == "--no-proxy" else []
        status, out, err = await voxtui(tmp_path, *command(given, target), *extra, **environ)
    assert proxied.asked == []
    assert "proxy" not in out + err
    assert "Traceback" not in err
    assert status == (1 if given[0] == "doctor" else 0 if how == "loopback" else 69)


@pytest.mark.parametrize("given", COMMANDS, ids=lambda given: given[0])
async def test_commands_that_a_proxy_refuses(given: tuple[str, ...], tmp_path: Path) -> None:
    async with http_proxy(answer=b"HTTP/1.1 403 Forbidden\r\n\r\n") as proxied:
        proxy = f"http://127.0.0.1:{proxied.port}"
        status, _, err = await voxtui(tmp_path, *command(given, "voxd.example:8000"), ALL_PROXY=proxy)
    assert status == 69
    (line,) = [line for line in err.splitlines() if "proxy" in line]
    assert "refuses to connect there (HTTP 403 Forbidden). To go without the proxy: --no-proxy" in line
    assert "Traceback" not in err


async def test_commands_with_a_variable_that_names_none(tmp_path: Path) -> None:
    for given in (*COMMANDS, ("doctor", "TARGET")):
        status, out, err = await voxtui(tmp_path, *command(given, "voxd.example:8000"), ALL_PROXY="quic://p")
        assert (status, out) == (2, "")
        assert "ALL_PROXY names a proxy by quic://" in err


@pytest.mark.skipif(not SOCKS, reason="needs python-socks")
async def test_a_command_through_socks(daemon: Daemon, tmp_path: Path) -> None:
    async with socks_proxy(port_of(daemon)) as proxied:
        proxy = f"socks5h://127.0.0.1:{proxied.port}"
        status, _, err = await voxtui(tmp_path, *command(COMMANDS[1], "voxd.example:8000"), ALL_PROXY=proxy)
    assert status == 0, err
    assert set(proxied.asked) == {b"voxd.example"}


async def test_the_doctor_tells(daemon: Daemon, tmp_path: Path) -> None:
    async with http_proxy(port_of(daemon)) as proxied:
        place = f"127.0.0.1:{proxied.port}"
        _, out, _ = await voxtui(tmp_path, "doctor", "voxd.example:8000", HTTP_PROXY=f"http://{place}")
    assert f"{place} (HTTP_PROXY)" in out
    assert "--no-proxy goes around it" in out
    assert "echo: ready" in out

    async with http_proxy(answer=b"HTTP/1.1 403 Forbidden\r\n\r\n") as proxied:
        proxy = f"http://127.0.0.1:{proxied.port}"
        status, out, err = await voxtui(tmp_path, "doctor", "voxd.example:8000", HTTP_PROXY=proxy)
    assert status == 1
    assert "HTTP 403 Forbidden" in " ".join(out.split())
    assert "Traceback" not in err
