"""The check of SDP offers passes what browsers send and refuses with a reason what they never send."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from voxd.webrtc import sdp

CHROMIUM = (Path(__file__).parents[2] / "data" / "chromium_offer.sdp").read_text()  # Chromium 156, candidates gathered
PEER = "192.0.2.2"


def read(text: str, peer: str | None = PEER) -> sdp.Offer:
    return sdp.read(text.replace("\n", "\r\n").encode(), peer)


def without(pattern: str) -> str:
    """Chromium's offer without the lines that begin so."""
    return "".join(line for line in CHROMIUM.splitlines(keepends=True) if not re.match(pattern, line))


def candidates(*addresses: str, transport: str = "udp") -> str:
    """Chromium's offer, with these candidates in its audio section and no others."""
    lines = "".join(f"a=candidate:1 1 {transport} 2122194687 {each} 40000 typ host\n" for each in addresses)
    return without("a=candidate").replace("a=rtcp-rsize\n", "a=rtcp-rsize\n" + lines)


def test_chromiums_offer_passes_with_what_is_needed_of_it() -> None:
    audio, channel = read(CHROMIUM).sections

    assert (audio.kind, audio.mid, audio.opus, audio.direction, audio.setup) == (
        "audio",
        "0",
        111,
        "sendrecv",
        "actpass",
    )
    assert [(each.address, each.port) for each in audio.candidates] == [(PEER, 47571)]
    assert (channel.kind, channel.mid, channel.port, channel.message) == ("application", "1", 5000, 65_535)
    assert audio.fingerprints[0].startswith("E1:D3:96")


def test_what_is_written_anew_says_the_same_and_nothing_else() -> None:
    offer = read(CHROMIUM)
    text = offer.text()

    assert sdp.read(text.encode(), PEER) == offer
    for word in ("extmap", "ssrc", "msid", " tcp ", "fd00", "G722", "red/48000", "trickle", "end-of-candidates"):
        assert word not in text


def test_an_offer_without_candidates_passes() -> None:
    """Several clients post their offer before they have gathered any: their first check tells where they are."""
    assert all(section.candidates == () for section in read(without("a=candidate")).sections)


def test_the_older_form_of_a_data_channel_section_passes() -> None:
    text = CHROMIUM.replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5001").replace("a=sctp-port:5000\n", "")
    assert read(text).sections[1].port == 5001


def test_a_size_of_zero_means_any() -> None:
    assert read(CHROMIUM.replace("max-message-size:262144", "max-message-size:0")).message == 65_535
    assert read(CHROMIUM.replace("max-message-size:262144", "max-message-size:1000")).message == 1000


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("10.0.0.1", PEER),
        ("169.254.169.254", PEER),  # the metadata service of clouds
        ("198.51.100.7", PEER),
        ("8d0b7f4e-1111-2222-3333-444455556666.local", PEER),  # a name that only mDNS can resolve
        ("fe80::1", PEER),
        (PEER, None),
        (PEER, "127.0.0.1"),
    ],
)
def test_nothing_is_ever_sent_to_an_address_that_the_offer_did_not_come_from(address: str, peer: str | None) -> None:
    offer = read(candidates(address), peer)
    assert offer.sections[0].candidates == ()
    assert address not in offer.text()


def test_candidates_over_tcp_are_passed_over_in_any_number() -> None:
    assert read(candidates(*[PEER] * 20, transport="tcp")).sections[0].candidates == ()


HOSTILE: dict[str, tuple[str, str]] = {
    "empty": ("", "not SDP"),
    "garbage": ("hello", "not SDP"),
    "garbage inside": (CHROMIUM + "hello\n", "line 57"),
    "a NUL": (CHROMIUM.replace("a=mid:0", "a=mid:0\0"), "letter=value"),
    "too large": (CHROMIUM + "a=x:" + "y" * sdp.MAX_BYTES, "at most 16384"),
    "no sections": ("v=0\no=- 0 0 IN IP4 0.0.0.0\ns=-\nt=0 0\n", "this one has: none"),
    "no audio": (CHROMIUM[: CHROMIUM.index("m=audio")] + CHROMIUM[CHROMIUM.index("m=application") :], "application"),
    "two audio sections": (CHROMIUM + CHROMIUM[CHROMIUM.index("m=audio") :], "this one has: audio, application, audio"),
    "video": (CHROMIUM + "m=video 9 UDP/TLS/RTP/SAVPF 96\na=mid:2\n", "m=video"),
    "video in disguise": (CHROMIUM.replace("m=audio", "m=video"), "m=video"),
    "an m-line that is none": (CHROMIUM.replace("m=audio 47571", "m=audio ninety"), "not `m=audio ninety"),
    "audio switched off": (CHROMIUM.replace("m=audio 47571", "m=audio 0"), "port 0"),
    "unencrypted": (CHROMIUM.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP"), "must be UDP/TLS/RTP/SAVPF"),
    "no fingerprint": (without("a=fingerprint"), "fingerprint"),
    "a weak fingerprint": (CHROMIUM.replace("sha-256", "sha-1"), "fingerprint"),
    "half a fingerprint": (CHROMIUM.replace(":E1:D3:96", "").replace("sha-256 E1:D3:", "sha-256 "), "fingerprint"),
    "no ICE": (without("a=ice-(ufrag|pwd)"), "ice-ufrag"),
    "a short ICE password": (CHROMIUM.replace("iEbXVbW8YQo0M2tfp6N2CS14", "short"), "ice-pwd"),
    "no setup": (without("a=setup"), "a=setup"),
    "on hold": (CHROMIUM.replace("setup:actpass", "setup:holdconn"), "a=setup"),
    "no mid": (without("a=mid"), "a=mid"),
    "a mid with a break in it": (CHROMIUM.replace("a=mid:0", "a=mid:0 1"), "a=mid"),
    "not bundled": (without("a=group"), "bundled"),
    "half bundled": (CHROMIUM.replace("BUNDLE 0 1", "BUNDLE 0"), "bundled"),
    "one mid twice": (CHROMIUM.replace("a=mid:1", "a=mid:0").replace("BUNDLE 0 1", "BUNDLE 0 0"), "bundled"),
    "no Opus": (without("a=rtpmap:111"), "no Opus"),
    "Opus under a number of RTCP": (CHROMIUM.replace("111", "72"), "no Opus"),
    "no rtcp-mux": (without("a=rtcp-mux"), "rtcp-mux"),
    "SCTP nowhere": (CHROMIUM.replace("sctp-port:5000", "sctp-port:99999"), "sctp-port"),
    "a message size that is none": (CHROMIUM.replace("262144", "-1"), "max-message-size"),
    "nine candidates": (candidates(*[PEER] * 9), "more than 8"),
    "nine foreign candidates": (candidates(*[f"203.0.113.{n}" for n in range(9)]), "more than 8"),
    "a candidate without an address": (candidates("not_an_address"), "malformed `a=candidate`"),
    "a candidate with a name": (candidates("internal.example"), "not an IP address"),
    "a multicast candidate": (candidates("239.1.2.3"), "no client"),
    "a broadcast candidate": (candidates("255.255.255.255"), "no client"),
    "a candidate on our own loopback": (candidates("127.0.0.1"), "no client"),
    "a candidate on our own loopback, IPv6": (candidates("::1"), "no client"),
    "a candidate nowhere": (candidates("0.0.0.0"), "no client"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_offer_is_refused_with_its_reason(name: str) -> None:
    text, reason = HOSTILE[name]
    with pytest.raises(sdp.InvalidOffer, match=re.escape(reason)):
        read(text)


def test_500_foreign_candidates_are_refused() -> None:
    with pytest.raises(sdp.InvalidOffer, match=r"at most 16384|more than 8"):
        read(candidates(*[f"203.0.113.{n % 250}" for n in range(500)]))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(sdp.InvalidOffer, match="UTF-8"):
        sdp.read(b"v=0\r\n\xff", PEER)


def _replaced(at: float, length: int, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        start = int(at * len(text))
        return text[:start] + new + text[start + length :]

    return change


@given(
    st.lists(st.builds(_replaced, st.floats(0, 1), st.integers(0, 40), st.text(max_size=20)), min_size=1, max_size=5)
)
def test_whatever_is_done_to_an_offer_it_is_refused_or_written_anew_in_plain_lines(
    changes: list[Callable[[str], str]],
) -> None:
    text = CHROMIUM
    for change in changes:
        text = change(text)
    try:
        offer = sdp.read(text.encode("utf-8", "surrogatepass"), PEER)
    except sdp.InvalidOffer:
        return
    assert sdp.read(offer.text().encode(), PEER) == offer
    assert all(each.address == PEER for section in offer.sections for each in section.candidates)
