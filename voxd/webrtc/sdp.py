"""Checks SDP offers: reads the few facts that this server needs, so that aiortc never sees what a client wrote.  Step 3
of a packet's path, by WebRTC.

Pure.  It knows SDP (RFC 8866), what WebRTC puts into it (RFC 8829, 8841) and what this server accepts; not aiortc,
HTTP, sessions or audio.

An offer is refused with a reason, or becomes an `Offer`.  `Offer.text()` writes SDP again from the checked values
alone, so unexpected attributes, malformed numbers and tricks of syntax never reach aiortc.

A candidate names an address that the server will send packets to.  Only candidates with the address that the offer
itself came from are kept, so that nobody can point the server at somebody else.  An offer without any is fine: the
server learns the client's address from its first authenticated check (a peer-reflexive candidate).  Names (`.local`)
are never resolved.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

MAX_BYTES = 16 << 10
MAX_CANDIDATES = 8  # over UDP, in one section
MESSAGE = 65_535  # bytes of a data channel message that every browser takes; the default of RFC 8841 is 64 KiB

_M_LINE = re.compile(r"m=([a-z]+) ([0-9]{1,5}) ([A-Z/]+) ([ -~]+)")
_MID = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_SHA256 = re.compile(r"sha-256 ((?:[0-9A-F]{2}:){31}[0-9A-F]{2})", re.IGNORECASE)
_OPUS = re.compile(r"([0-9]{1,3}) opus/48000/2", re.IGNORECASE)
_CANDIDATE = re.compile(
    r"([A-Za-z0-9+/]{1,32}) ([0-9]{1,3}) (udp|tcp|ssltcp) ([0-9]{1,10}) ([0-9A-Za-z.:-]{1,255}) ([0-9]{1,5})"
    r" typ (host|srflx|prflx|relay)( [ -~]*)?",
    re.IGNORECASE,
)
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_SETUP = ("actpass", "active", "passive")
_PROFILES = {"audio": ("UDP/TLS/RTP/SAVPF",), "application": ("UDP/DTLS/SCTP", "DTLS/SCTP")}
_SHOWN = 60  # characters of an offer that an error quotes
_FINGERPRINTS = 4  # that are kept of a section


class InvalidOffer(ValueError):
    """The offer cannot be accepted; the message is for the client's developer."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host candidate over UDP (RFC 8839); `address` is the one that the offer came from."""

    foundation: str
    priority: int
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Section:
    """One media section: an `m=` line and its attributes."""

    kind: str  # audio or application
    mid: str
    ufrag: str
    password: str
    fingerprints: tuple[str, ...]  # SHA-256, 32 bytes in hexadecimal with colons
    setup: str
    candidates: tuple[Candidate, ...]
    direction: str = "sendrecv"
    opus: int = 0  # payload type
    port: int = 5000  # of SCTP
    message: int = MESSAGE  # bytes of the largest message that the peer accepts

    def lines(self) -> Iterator[str]:
        if self.kind == "audio":
            yield f"m=audio 9 UDP/TLS/RTP/SAVPF {self.opus}"
        else:
            yield "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"
        yield "c=IN IP4 0.0.0.0"
        yield f"a=mid:{self.mid}"
        yield f"a=ice-ufrag:{self.ufrag}"
        yield f"a=ice-pwd:{self.password}"
        yield from (f"a=fingerprint:sha-256 {value}" for value in self.fingerprints)
        yield f"a=setup:{self.setup}"
        if self.kind == "audio":
            yield from (f"a={self.direction}", "a=rtcp-mux", f"a=rtpmap:{self.opus} opus/48000/2")
        else:
            yield from (f"a=sctp-port:{self.port}", f"a=max-message-size:{self.message}")
        for each in self.candidates:
            yield f"a=candidate:{each.foundation} 1 udp {each.priority} {each.address} {each.port} typ host"


@dataclass(frozen=True, slots=True)
class Offer:
    """A checked offer: one audio section and at most one for data channels, in the client's order, on one transport."""

    sections: tuple[Section, ...]

    @property
    def has_channel(self) -> bool:
        return any(section.kind == "application" for section in self.sections)

    @property
    def message(self) -> int:
        """Bytes of the largest message that may be sent: what the peer accepts, and at most MESSAGE."""
        return min((section.message for section in self.sections if section.kind == "application"), default=MESSAGE)

    def text(self) -> str:
        """The offer as SDP, from the checked values alone."""
        head = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0"]
        head.append("a=group:BUNDLE " + " ".join(section.mid for section in self.sections))
        body = [line for section in self.sections for line in section.lines()]
        return "\r\n".join([*head, *body]) + "\r\n"


def read(data: bytes, peer: str | None) -> Offer:
    """Parses and checks an offer.  `peer`: the IP address that it came from, None if unknown.  Raises InvalidOffer."""
    if len(data) > MAX_BYTES:
        raise InvalidOffer(f"The offer has {len(data)} bytes; at most {MAX_BYTES} are accepted.")
    try:
        lines = data.decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        raise InvalidOffer("The offer is not UTF-8.") from None
    if lines[0] != "v=0":
        raise InvalidOffer("The offer is not SDP: its first line is not `v=0`.")
    for number, line in enumerate(lines, 1):
        if len(line) < 2 or line[1] != "=" or not line.isprintable():
            raise InvalidOffer(f"The offer is not SDP: line {number} is not `letter=value`.")
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    head = _Attributes(lines[: starts[0]] if starts else lines)
    ends = [*starts[1:], len(lines)]
    sections = tuple(_section(lines[start:end], head, peer) for start, end in zip(starts, ends, strict=False))
    _check_together(sections, head)
    return Offer(sections)


class _Attributes:
    """The `a=` lines of one part of a description."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._pairs = [line[2:].partition(":")[::2] for line in lines if line.startswith("a=")]

    def all(self, name: str) -> list[str]:
        return [value for each, value in self._pairs if each == name]

    def one(self, name: str, default: str = "") -> str:
        return next(iter(self.all(name)), default)

    def has(self, name: str) -> bool:
        return any(each == name for each, _ in self._pairs)


def _check_together(sections: Sequence[Section], head: _Attributes) -> None:
    kinds = [section.kind for section in sections]
    if kinds.count("audio") != 1 or kinds.count("application") > 1:
        found = ", ".join(kinds) or "none"
        raise InvalidOffer(f"An offer has one audio section and at most one for data channels; this one has: {found}.")
    mids = [section.mid for section in sections]
    groups = [group.split()[1:] for group in head.all("group") if group.startswith("BUNDLE ")]
    if len(set(mids)) != len(mids) or not any(sorted(group) == sorted(mids) for group in groups):
        raise InvalidOffer(
            "All sections must be bundled (`a=group:BUNDLE`, each `a=mid` once): one port serves a call."
        )


def _section(lines: Sequence[str], head: _Attributes, peer: str | None) -> Section:
    match = _M_LINE.fullmatch(lines[0])
    if match is None or match[1] not in _PROFILES:
        raise InvalidOffer(f"Only audio and data channels are accepted, not `{lines[0][:_SHOWN]}`.")
    kind, port, profile, formats = match.groups()
    if port == "0":
        raise InvalidOffer(f"The {kind} section is switched off (port 0).")
    if profile not in _PROFILES[kind]:
        raise InvalidOffer(f"The {kind} section must be {_PROFILES[kind][0]}, not {profile}.")
    own = _Attributes(lines)
    common = _transport(kind, own, head, peer)
    if kind == "audio":
        return _audio(common, own, formats.split())
    return _channel(common, own, formats)


def _transport(kind: str, own: _Attributes, head: _Attributes, peer: str | None) -> Section:
    """A section with what ICE and DTLS need, from its own attributes or else from the session's."""
    mid = own.one("mid")
    if not _MID.fullmatch(mid):
        raise InvalidOffer(f"The {kind} section has no usable `a=mid`.")
    ufrag, password = (own.one(name) or head.one(name) for name in ("ice-ufrag", "ice-pwd"))
    if not _UFRAG.fullmatch(ufrag) or not _PASSWORD.fullmatch(password):
        raise InvalidOffer(f"The {kind} section has no usable `a=ice-ufrag` and `a=ice-pwd`.")
    offered = own.all("fingerprint") or head.all("fingerprint")
    fingerprints = tuple(match[1].upper() for each in offered if (match := _SHA256.fullmatch(each)))
    if not fingerprints:
        raise InvalidOffer(f"The {kind} section has no SHA-256 fingerprint (`a=fingerprint:sha-256 ...`).")
    setup = own.one("setup") or head.one("setup")
    if setup not in _SETUP:
        raise InvalidOffer(f"The {kind} section must have `a=setup` with one of {', '.join(_SETUP)}.")
    candidates = tuple(_candidates(kind, own.all("candidate"), peer))
    return Section(kind, mid, ufrag, password, fingerprints[:_FINGERPRINTS], setup, candidates)


def _audio(section: Section, own: _Attributes, formats: Sequence[str]) -> Section:
    opus = [match[1] for each in own.all("rtpmap") if (match := _OPUS.fullmatch(each)) and match[1] in formats]
    if not opus or not (96 <= int(opus[0]) <= 127 or 35 <= int(opus[0]) <= 63):
        raise InvalidOffer("The audio section has no Opus (`a=rtpmap:N opus/48000/2`, N from 35 to 63 or 96 to 127).")
    if not own.has("rtcp-mux"):
        raise InvalidOffer("The audio section needs `a=rtcp-mux`: one port serves a call.")
    direction = next((each for each in _DIRECTIONS if own.has(each)), "sendrecv")
    return replace(section, direction=direction, opus=int(opus[0]))


def _channel(section: Section, own: _Attributes, formats: str) -> Section:
    if formats != "webrtc-datachannel":  # the form before RFC 8841: `m=application 9 DTLS/SCTP 5000`
        port = formats
    else:
        port = own.one("sctp-port", "5000")
    size = own.one("max-message-size", str(MESSAGE))
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65_536 or not re.fullmatch(r"[0-9]{1,12}", size):
        raise InvalidOffer("The data channel section has no usable `a=sctp-port` and `a=max-message-size`.")
    return replace(section, port=int(port), message=min(int(size) or MESSAGE, MESSAGE))  # 0: any size


def _candidates(kind: str, offered: Sequence[str], peer: str | None) -> Iterator[Candidate]:
    """The candidates at the address that the offer came from.  Raises InvalidOffer for one that cannot be right."""
    over_udp = 0
    for text in offered:
        match = _CANDIDATE.fullmatch(text)
        if match is None:
            raise InvalidOffer(f"The {kind} section has a malformed `a=candidate`: `{text[:_SHOWN]}`.")
        foundation, component, transport, priority, address, port, *_ = match.groups()
        if transport.lower() != "udp":
            continue
        over_udp += 1
        if over_udp > MAX_CANDIDATES:
            raise InvalidOffer(f"The {kind} section has more than {MAX_CANDIDATES} candidates over UDP.")
        if address.endswith(".local"):
            continue
        host = _checked(address, peer)
        if component == "1" and int(port) in range(1, 65_536) and host == peer and int(priority) < 1 << 31:
            yield Candidate(foundation, int(priority), host, int(port))


def _checked(text: str, peer: str | None) -> str:
    """An address in its usual form.  Raises InvalidOffer for an address that no client can have."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidOffer(f"A candidate is at {text[:_SHOWN]!r}, which is not an IP address.") from None
    foreign_loopback = address.is_loopback and not (peer and ipaddress.ip_address(peer).is_loopback)
    if address.is_multicast or address.is_unspecified or foreign_loopback or text == "255.255.255.255":
        raise InvalidOffer(f"A candidate is at {address}, an address that no client of this server can have.")
    return str(address)
