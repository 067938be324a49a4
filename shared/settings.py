"""Every setting of the daemon with its default, its unit (in the name) and its range.  Not in the packet's path.

`shared.config` reads config.yaml into these; `config.yaml` at the top of the tree says in words what each is for.
Pure: structs and the few checks that need more than one field.  It does not know files or what a setting does.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct

SOCKET_PATH_MAX = 104  # bytes of sun_path with its final NUL on macOS and the BSDs (Linux: 108)
DEFAULT_PORT = 8000

# Descriptions are what error messages say is allowed.
EngineName = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9_-]{0,63}\Z", description="the name of an engine")]
PathOrAuto = Annotated[str, Meta(pattern=r"\A(auto|/[^\x00-\x1f]+)\Z", description="auto or an absolute path")]
AbsolutePath = Annotated[str, Meta(pattern=r"\A/[^\x00-\x1f]+\Z", description="an absolute path")]
HostName = Annotated[str, Meta(pattern=r"\A[^\x00-\x20/@]+\Z", description="a host name without scheme or path")]
VariableName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z", description="the name of an environment variable")
]
Origin = Annotated[str, Meta(pattern=r"\Ahttps?://[^\x00-\x20/@]+\Z", description="http://HOST or https://HOST[:PORT]")]

AddressOrAuto = Annotated[str, Meta(pattern=r"\A(auto|[0-9A-Fa-f.:]+)\Z", description="auto or an IP address")]
PortRange = Annotated[str, Meta(pattern=r"\A[0-9]{1,5}(-[0-9]{1,5})?\Z", description="a port or a range LOW-HIGH")]


class Engines(Struct, frozen=True):
    """Which engine fills which role."""

    transcribe: EngineName = "auto"
    respond: EngineName = "auto"


class Server(Struct, frozen=True):
    """Sockets, and who may use them."""

    socket: PathOrAuto = "auto"
    listen: tuple[str, ...] = ()  # each as `listener` takes it
    token: bool = True
    token_file: PathOrAuto = "auto"
    allow_host: tuple[HostName, ...] = ()
    allow_origin: tuple[Origin, ...] = ()
    max_sessions: Annotated[int, Meta(ge=1, le=4096)] = 64
    drain_s: Annotated[int, Meta(ge=0, le=3600)] = 30
    strict_models: bool = False
    strict_modalities: bool = False
    tls_cert: AbsolutePath | None = None
    tls_key: AbsolutePath | None = None


class EngineProcess(Struct, frozen=True):
    """When the engine process counts as hung, and how often it is started again."""

    heartbeat_timeout_s: Annotated[int, Meta(ge=1, le=600)] = 20
    restarts: Annotated[int, Meta(ge=0, le=1000)] = 5
    restart_window_s: Annotated[int, Meta(ge=1, le=86_400)] = 600
    environment: tuple[VariableName, ...] = ()


class Vad(Struct, frozen=True):
    """Turn-taking by voice.  The ranges are those of a session's own `turn_detection`."""

    threshold: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    prefix_padding_ms: Annotated[int, Meta(ge=0, le=2000)] = 300
    silence_duration_ms: Annotated[int, Meta(ge=160, le=10_000)] = 500
    tentative_ms: Annotated[int, Meta(ge=32, le=10_000)] = 120
    onset_ms: Annotated[int, Meta(ge=32, le=1000)] = 64
    hangover_ms: Annotated[int, Meta(ge=0, le=1000)] = 96
    max_utterance_s: Annotated[int, Meta(ge=1, le=300)] = 300


class Streaming(Struct, frozen=True):
    """Target of `ttft_server_ms`."""

    latency_target_ms: Annotated[int, Meta(ge=1)] = 100


class PerformanceTargets(Struct, frozen=True):
    """Targets of `ttft_engine_ms` and of `total_ms`."""

    ttft_ms: Annotated[int, Meta(ge=1)] = 100
    total_latency_ms: Annotated[int, Meta(ge=1)] = 1000


class ChunkedResponse(Struct, frozen=True):
    """How an answer is cut into deltas."""

    min_words_per_chunk: Annotated[int, Meta(ge=1, le=100)] = 1
    max_words_per_chunk: Annotated[int, Meta(ge=0, le=100)] = 2
    chunk_timeout_ms: Annotated[int, Meta(ge=1, le=10_000)] = 50


class WebRtc(Struct, frozen=True):
    """Media over UDP.  `address`: the address of the only candidate; auto: the one that the client reached."""

    enabled: bool = False
    address: AddressOrAuto = "auto"
    udp_ports: PortRange = "61000-61999"  # above what Linux gives to outgoing connections

    @property
    def ports(self) -> tuple[int, int]:
        low, _, high = self.udp_ports.partition("-")
        return int(low), int(high or low)


class Log(Struct, frozen=True):
    """How much the journal gets."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Struct, frozen=True):
    """All settings; `engine_options.<engine>` is checked by the engine that it is for."""

    engines: Engines = Engines()
    engine_options: dict[str, dict[str, Any]] = {}
    server: Server = Server()
    engine_process: EngineProcess = EngineProcess()
    vad: Vad = Vad()
    streaming: Streaming = Streaming()
    performance_targets: PerformanceTargets = PerformanceTargets()
    chunked_response: ChunkedResponse = ChunkedResponse()
    webrtc: WebRtc = WebRtc()
    log: Log = Log()


class Tcp(NamedTuple):
    """A TCP address; host without brackets."""

    host: str
    port: int


def listener(text: str) -> Tcp | Path:
    """`HOST:PORT`, `[IPV6]:PORT`, `:PORT` (loopback), `HOST` (port 8000) or `unix:/path`; ValueError says why not."""
    if text.startswith("unix:"):
        return socket_path(Path(text.removeprefix("unix:")))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*))(?::([0-9]{1,5}))?", text)
    if match is None or not text:
        raise ValueError(f"expected HOST:PORT, [IPV6]:PORT or unix:/path, got {text[:60]!a}")
    port = int(match[3] or DEFAULT_PORT)
    if port > 65_535:
        raise ValueError(f"expected a port from 0 to 65535, got {port}")
    return Tcp(match[1] or match[2] or "127.0.0.1", port)


def socket_path(path: Path) -> Path:
    """The path itself if a UNIX socket can be bound there; else ValueError."""
    if not path.is_absolute():
        raise ValueError(f"expected an absolute path for a socket, got {str(path)[:60]!a}")
    size = len(str(path).encode("utf-8", "surrogateescape")) + 1
    if size > SOCKET_PATH_MAX:
        raise ValueError(f"a socket path takes at most {SOCKET_PATH_MAX - 1} bytes, got {size - 1}: {path}")
    return path


def contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that contradict each other: their paths, and how."""
    vad, chunk, server = settings.vad, settings.chunked_response, settings.server
    if vad.tentative_ms >= vad.silence_duration_ms:
        yield (
            ("vad.tentative_ms", "vad.silence_duration_ms"),
            f"tentative_ms ({vad.tentative_ms}) must be below silence_duration_ms ({vad.silence_duration_ms})",
        )
    if 0 < chunk.max_words_per_chunk < chunk.min_words_per_chunk:
        yield (
            ("chunked_response.min_words_per_chunk", "chunked_response.max_words_per_chunk"),
            f"min_words_per_chunk ({chunk.min_words_per_chunk}) must not be above max_words_per_chunk "
            f"({chunk.max_words_per_chunk}; 0 means no splitting)",
        )
    if (server.tls_cert is None) != (server.tls_key is None):
        yield ("server.tls_cert", "server.tls_key"), "tls_cert and tls_key go together"
    low, high = settings.webrtc.ports
    if not 0 < low <= high < 65_536:
        yield ("webrtc.udp_ports",), f"expected ports from 1 to 65535, the lower first, got {settings.webrtc.udp_ports}"
    try:
        settings.webrtc.address == "auto" or ipaddress.ip_address(settings.webrtc.address)
    except ValueError:
        yield ("webrtc.address",), f"expected auto or an IP address, got {settings.webrtc.address!r}"
    sockets = [("server.socket", f"unix:{server.socket}")] if server.socket != "auto" else []
    for path, text in sockets + [(f"server.listen[{i}]", text) for i, text in enumerate(server.listen)]:
        try:
            listener(text)
        except ValueError as error:
            yield (path,), str(error)
