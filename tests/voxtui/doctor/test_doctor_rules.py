"""voxtui.doctor: what the facts mean, and how a report reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import __version__
from shared.report import Finding, healthy
from voxtui.doctor.command import report_on
from voxtui.doctor.facts import (
    Answer,
    Engines,
    Forward,
    Knock,
    LinkCheck,
    Machine,
    Screen,
    Sound,
    Status,
    Token,
    Tunnel,
    Voxd,
    Way,
    Words,
)
from voxtui.doctor.rules import delays, machine_findings, voxd_findings, way_findings, words_finding

SCREEN = Screen(terminal=True, columns=80, rows=24, colours=256, utf8=True)
HEARD = Sound(version="V19", device="Blue Yeti", peak=900, level=-41.3)
MACHINE = Machine("linux", "Linux version 6.1 (gcc)", False, "", "ann", True, "apt-get", "wpctl", SCREEN, HEARD)
WSL = replace(MACHINE, kernel="Linux version 5.15.167.4-microsoft-standard-WSL2")
NONE = Sound(version="V19", trouble="No microphone is known to the sound system of this machine.")
MUTE = Sound(version="V19", device="Blue Yeti", peak=0, level=-120.0)
LOGIN = "10.0.0.2 51000 10.0.0.7 22"

OPEN = Knock("localhost:8000", ms=0.4)
NEAR = Way("tcp", True, OPEN)
OLD, NEW = "OpenSSH_9.2p1", "OpenSSH_10.1p1"
FORWARD = Forward(4711, "gpu", True, "8000", "localhost:8000", OLD)
SSH = Way("ssh", False, Knock("gpu:22", ms=12.0, banner=NEW), ssh="OpenSSH_9.9p1", tunnel=Tunnel(640, "a UNIX socket"))

READY = Status(__version__, "ready", engines=Engines("whisper"), max_sessions=8)
TOKEN = Token(wanted=True, given=True)
GOOD = Voxd(TOKEN, Answer(200, READY), link=LinkCheck(4.2, 0.3))


def of(status: Status) -> Voxd:
    return Voxd(TOKEN, Answer(200, status))


def without_link(answer: Answer, token: Token = TOKEN) -> Voxd:
    return Voxd(token, answer)


# ── what facts mean: (facts, name of a finding, its mark, what its line or its remedy says) ─────────────────────────

ABOUT_THE_MACHINE = [
    (MACHINE, "microphone", "ok", "Blue Yeti, -41 dBFS"),
    (replace(MACHINE, sound=MUTE), "microphone", "bad", "wpctl set-mute"),
    (replace(MACHINE, sound=MUTE, system="darwin"), "microphone", "bad", "Privacy & Security > Microphone"),
    (replace(WSL, sound=MUTE, pulse=True), "microphone", "bad", "In Windows"),
    (replace(MACHINE, sound=NONE), "microphone", "bad", "libasound2-plugins"),
    (replace(MACHINE, sound=NONE, system="darwin"), "microphone", "bad", "Sound > Input"),
    (replace(MACHINE, sound=Sound(device="Mic", trouble="It is busy.")), "microphone", "bad", "End the program"),
    (replace(MACHINE, sound=None), "microphone", "bad", "systemctl --user restart"),
    (replace(MACHINE, sound=Sound(missing="library")), "PortAudio", "bad", "sudo apt install libportaudio2"),
    (replace(MACHINE, sound=Sound(missing="library"), installer="dnf"), "PortAudio", "bad", "dnf install portaudio"),
    (replace(MACHINE, sound=Sound(missing="library"), installer="brew"), "PortAudio", "bad", "brew install portaudio"),
    (replace(MACHINE, sound=Sound(missing="library"), installer=""), "PortAudio", "bad", "package manager"),
    (replace(MACHINE, sound=Sound(missing="package")), "PortAudio", "bad", "pip install sounddevice"),
    (replace(MACHINE, sound=Sound(missing="library")), "microphone", "skipped", "PortAudio is missing"),
    (replace(WSL, sound=NONE), "WSL", "bad", "wsl --update"),
    (replace(WSL, sound=NONE, pulse=True), "WSL", "ok", "Windows"),
    (replace(WSL, sound=NONE, pulse=True), "microphone", "bad", "libasound2-plugins"),
    (WSL, "WSL", "ok", "Windows"),
    (replace(MACHINE, login=LOGIN), "login", "warn", "voxtui ann@10.0.0.7 "),
    (replace(MACHINE, login="10.0.0.2 5 fe80::7 2222"), "login", "warn", "voxtui ssh://ann@[fe80::7]:2222 "),
    (replace(MACHINE, login=LOGIN, here=False), "login", "warn", "Run voxtui on your own machine."),
    (replace(MACHINE, screen=replace(SCREEN, terminal=False)), "terminal", "skipped", "pipe"),
    (replace(MACHINE, screen=replace(SCREEN, utf8=False)), "terminal", "warn", "export LC_ALL"),
    (replace(MACHINE, screen=replace(SCREEN, colours=0)), "terminal", "ok", "no colours"),
]
ABOUT_THE_WAY = [
    (NEAR, "port", "ok", "localhost:8000, 0.4 ms"),
    (replace(NEAR, knock=Knock("localhost:1", failure="refused")), "port", "bad", "voxd start --listen localhost:1"),
    (replace(NEAR, near=False, knock=Knock("gpu:1", failure="silent")), "port", "bad", "voxtui USER@HOST"),
    (replace(NEAR, knock=Knock("p:1", 1.0), proxy="HTTPS_PROXY"), "proxy", "ok", "p:1 (HTTPS_PROXY)"),
    (replace(NEAR, knock=Knock("p:1", failure="refused"), proxy="ALL_PROXY"), "proxy", "bad", "--no-proxy"),
    (Way("unix", True, Knock("/s", failure="missing")), "socket", "bad", "Start a voxd: voxd start"),
    (Way("unix", True, Knock("/s", failure="denied", trouble="permission denied")), "socket", "bad", "join the group"),
    (replace(NEAR, forwards=(FORWARD,)), "forward", "warn", "ssh -T -L 8000:localhost:8000 gpu cat"),
    (replace(NEAR, forwards=(FORWARD,)), "forward", "warn", "Let voxtui make the tunnel: voxtui gpu"),
    (replace(NEAR, forwards=(replace(FORWARD, banner=""),)), "forward", "warn", "up to OpenSSH 10.0"),
    (replace(NEAR, forwards=(replace(FORWARD, banner=NEW),)), "forward", "ok", "pid 4711"),
    (replace(NEAR, forwards=(replace(FORWARD, bare=False),)), "forward", "ok", "pid 4711"),
    (SSH, "SSH server", "ok", "OpenSSH_10.1p1, 12 ms away"),
    (replace(SSH, knock=Knock("g", banner=OLD)), "SSH server", "ok", "which voxtui does not use"),
    (
        replace(SSH, knock=Knock("g", skipped="the way goes through ProxyJump b")),
        "SSH server",
        "skipped",
        "ProxyJump b",
    ),
    (SSH, "tunnel", "ok", "640 ms, over a UNIX socket"),
    (replace(SSH, tunnel=Tunnel(1200, loading="whisper 40 %")), "tunnel", "ok", "stands after 1.2 s"),
    (replace(SSH, tunnel=Tunnel(trouble="gpu lets none in.")), "tunnel", "bad", "gpu lets none in."),
    (replace(SSH, tunnel=None, knock=Knock("g:22", failure="unknown")), "SSH server", "bad", "Is the name right?"),
    (replace(SSH, tunnel=None, knock=Knock("g:22", failure="unknown")), "tunnel", "skipped", "cannot be reached"),
    (replace(SSH, ssh=None, knock=Knock("g", trouble="There is no ssh.")), "ssh", "bad", "There is no ssh."),
]
ABOUT_VOXD = [
    (GOOD, "token", "ok", "accepted"),
    (replace(GOOD, token=Token(wanted=True, given=False)), "token", "ok", "asks for none"),
    (replace(GOOD, token=Token(wanted=False, given=False)), "token", "ok", "none is needed"),
    (replace(GOOD, token=Token(True, True, Path("/t"), 0o644)), "token", "warn", "chmod 600 /t"),
    (replace(GOOD, token=Token(True, True, Path("/t"), 0o600)), "token", "ok", "accepted"),
    (without_link(Answer(401)), "token", "bad", "`voxd token` prints it"),
    (without_link(Answer(401), Token(True, False)), "token", "bad", "none is given"),
    (without_link(Answer(401)), "the rest", "skipped", "token"),
    (GOOD, "engine", "ok", "whisper: ready"),
    (of(Status("1", "loading", "weights 40 %")), "engine", "warn", "loading: weights 40 %"),
    (of(Status("1", "failed", "no GPU")), "engine", "bad", "journalctl -u voxd"),
    (of(Status("1", "ready", sessions=8, max_sessions=8)), "engine", "warn", "all 8 sessions are taken"),
    (of(Status("1", "loading")), "the rest", "skipped", "not checked"),
    (without_link(Answer(404, said="not a voxd")), "engine", "bad", "not a voxd"),
    (Voxd(TOKEN), "the rest", "skipped", "there is no way to voxd"),
    (GOOD, "versions", "ok", __version__),
    (of(Status("9.9.9", "ready")), "versions", "warn", f"voxtui {__version__} here, voxd 9.9.9 there"),
    (GOOD, "WebSocket", "ok", "open after 4.2 ms, ping 0.3 ms"),
    (replace(GOOD, link=LinkCheck(trouble="closed at once")), "WebSocket", "bad", "closed at once"),
    (replace(GOOD, link=LinkCheck(trouble="closed at once")), "the rest", "skipped", "no session"),
]


@pytest.mark.parametrize(
    ("rule", "facts", "name", "mark", "says"),
    [
        *((machine_findings, *case) for case in ABOUT_THE_MACHINE),
        *((way_findings, *case) for case in ABOUT_THE_WAY),
        *((voxd_findings, *case) for case in ABOUT_VOXD),
    ],
)
def test_rules(rule: Callable[[Any], list[Finding]], facts: object, name: str, mark: str, says: str) -> None:
    found = next(each for each in rule(facts) if each.name == name)
    assert found.mark == mark, found
    assert says in " ".join((found.detail, *found.remedy))


@pytest.mark.parametrize(
    ("words", "mark", "says"),
    [
        (Words({"first_text_ms": 612.4, "final_ms": 180.0}), "ok", "first_text_ms 612, final_ms 180"),
        (Words({"ttft_user_ms": 700.0, "total_ms": 9.0}), "ok", "ttft_user_ms 700"),
        (Words({"final_ms": 9000.0, "rtf": 1.4}), "warn", "rtf 1.40"),
        (Words(), "bad", "no words"),
        (Words(trouble="voxd is full."), "bad", "voxd is full."),
    ],
)
def test_the_rule_of_speech(words: Words, mark: str, says: str) -> None:
    found = words_finding(words)
    assert (found.mark, says in found.detail) == (mark, True), found


def test_a_machine_that_is_only_logged_in_to_needs_no_microphone() -> None:
    """A missing microphone is shown, but is nothing to mend there."""
    found = machine_findings(replace(MACHINE, sound=NONE, login=LOGIN))
    assert healthy(found)
    assert [each.remedy for each in found if each.name == "microphone"] == [()]


def test_a_way_that_stands() -> None:
    assert [each.stands for each in (NEAR, SSH, replace(SSH, tunnel=Tunnel(loading="40 %")))] == [True] * 3
    broken = (replace(NEAR, knock=Knock("", failure="other")), replace(SSH, tunnel=None))
    assert [each.stands for each in broken] == [False] * 2


@pytest.mark.parametrize(
    ("banner", "expected"),
    [
        ("OpenSSH_8.9p1", True),
        ("OpenSSH_10.0p2", True),
        ("OpenSSH_10.1", False),
        ("OpenSSH_11.0", False),
        ("dropbear_2022.83", None),
        ("", None),
    ],
)
def test_which_servers_hold_small_messages_back(banner: str, expected: bool | None) -> None:
    assert delays(banner) is expected


# ── how a report reads ──────────────────────────────────────────────────────────────────────────────────────────────


def report(screen: Screen, *findings: Finding) -> list[str]:
    lines: list[str] = []
    report_on(screen, lines.append).group("The way", findings)
    return lines


def test_plain_letters_where_there_is_no_utf8() -> None:
    found = report(
        replace(SCREEN, utf8=False, terminal=False),
        Finding("ssh", "ok", "9.2 · x"),
        Finding("token", "bad", "no", ("do",)),
    )
    assert found == [
        "The way",
        "  ok   ssh         9.2 ? x",
        "  bad  token       no",
        "                   > do",
    ]


def test_long_details_are_wrapped_and_remedies_never() -> None:
    remedy = "ssh -T -L 8000:localhost:8000 somewhere.example " + "x" * 60
    found = report(replace(SCREEN, colours=0, columns=40), Finding("a", "warn", "one two three " * 5, (remedy,)))
    assert found[-1].strip() == f"→ {remedy}"
    assert len(found) > 4
    assert all(len(line) <= 40 and line.startswith(" " * 16) for line in found[2:-1])


def test_colours_on_a_terminal_and_none_in_a_pipe() -> None:
    finding = Finding("ssh", "ok", "fine")
    assert "\x1b[32m✓\x1b[0m" in report(SCREEN, finding)[1]
    assert report(replace(SCREEN, terminal=False), finding)[1] == "  ✓ ssh         fine"


def test_what_others_say_does_nothing_to_the_terminal() -> None:
    evil = "\x1b]0;title\x07one\x1b[2J\ntwo"
    found = report(replace(SCREEN, colours=0), Finding("x", "bad", evil, (evil,)))
    assert found[1:] == ["  ✗ x           one two", "                → one two"]
