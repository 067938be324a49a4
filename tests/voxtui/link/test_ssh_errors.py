"""voxtui.link.ssh_errors: OpenSSH's own words, and what a person is told."""

from __future__ import annotations

import pytest

from shared.tunnel import PROTOCOL, Trouble
from voxtui.errors import Misconfigured, Unreachable
from voxtui.link.ssh_errors import NoForwarding, failure, last_words, other_protocol, silence

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Someone could be eavesdropping on you right now (man-in-the-middle attack)!
Offending ED25519 key in /home/me/.ssh/known_hosts:1
Host key for [127.0.0.1]:54395 has changed and you have requested strict checking.
Host key verification failed.
"""
OPEN_KEY = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Permissions 0644 for '/home/me/gpu.pem' are too open.
It is required that your private key files are NOT accessible by others.
Load key "/home/me/gpu.pem": bad permissions
ubuntu@gpu: Permission denied (publickey).
"""

FAILURES: list[tuple[str, type[Unreachable], str]] = [
    (
        "/home/me/.ssh/config: line 2: Bad configuration option: frobnicate\n"
        "/home/me/.ssh/config: terminating, 1 bad configuration options",
        Misconfigured,
        "line 2: Bad configuration option: frobnicate",
    ),
    ("Bad owner or permissions on /home/me/.ssh/config", Misconfigured, "Bad owner or permissions on /home/me"),
    ("ssh: Could not resolve hostname gpu.lan: Name or service not known", Unreachable, "no host gpu.lan"),
    ("ssh: Could not resolve hostname gpu: Temporary failure in name resolution", Unreachable, "has a network"),
    (CHANGED, Misconfigured, "ssh-keygen -R '[127.0.0.1]:54395'"),
    ("Host key verification failed.", Misconfigured, "run `ssh box` once"),
    (
        "No ED25519 host key is known for gpu and you have requested strict checking.\nHost key verification failed.",
        Misconfigured,
        "fingerprint",
    ),
    (OPEN_KEY, Misconfigured, "chmod 600 /home/me/gpu.pem"),
    ("me@gpu: Permission denied (publickey,password).", Misconfigured, "it takes: publickey,password"),
    ("me@gpu: Permission denied (publickey).", Misconfigured, "ec2-user"),
    (
        "Received disconnect from 10.0.0.7 port 22:2: Too many authentication failures\n"
        "Disconnected from 10.0.0.7 port 22",
        Misconfigured,
        "IdentitiesOnly yes",
    ),
    (
        "Unable to negotiate with 127.0.0.1 port 41023: no matching key exchange method found. Their offer: x",
        Misconfigured,
        "no method in common",
    ),
    ("ssh: connect to host 127.0.0.1 port 49413: Connection refused", Unreachable, "(Connection refused)"),
    ("ssh: connect to host gpu port 22: Connection timed out", Unreachable, "security group"),
    ("ssh: connect to host 2001:db8::1 port 22: No route to host", Unreachable, "(No route to host)"),
    ("ssh: connect to host gpu port 22: Network is unreachable", Unreachable, "has a network"),
    (
        "kex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535",
        Unreachable,
        "before ssh could begin (kex_exchange_identification: Connection closed by remote host)",
    ),
    ("kex_exchange_identification: read: Connection reset by peer", Unreachable, "before ssh could begin"),
    (
        "Connection timed out during banner exchange\nConnection to 127.0.0.1 port 36369 timed out",
        Unreachable,
        "see whether it is ssh that answers there",
    ),
    ("Connection reset by 10.0.0.7 port 22", Unreachable, "before ssh could begin"),
    ("Timeout, server gpu not responding.", Unreachable, "was lost (Timeout, server gpu not responding)"),
    ("Connection to 127.0.0.1 closed by remote host.", Unreachable, "was lost"),
    ("client_loop: send disconnect: Broken pipe", Unreachable, "was lost"),
    (
        "bind [127.0.0.1]:8888: Address already in use\n"
        "channel_setup_fwd_listener_tcpip: cannot listen to port: 8888\nCould not request local forwarding.",
        NoForwarding,
        "cannot listen to port: 8888",
    ),
    ("Error: remote port forwarding failed for listen port 36369", NoForwarding, "listen port 36369"),
    ("something that no table holds", Unreachable, "status 255, and says: something that no table holds."),
    ("", Unreachable, "says: nothing."),
]


@pytest.mark.parametrize(("said", "kind", "words"), FAILURES)
def test_ssh_itself_failed(said: str, kind: type[Unreachable], words: str) -> None:
    error = failure("box", 255, said.splitlines())
    assert type(error) is kind
    assert words in str(error)
    assert "{" not in str(error)
    assert str(error).endswith(".")
    assert not str(error).endswith("..")


@pytest.mark.parametrize(
    ("status", "said", "kind", "words"),
    [
        (127, "sh: 1: exec: voxd: not found", Misconfigured, "VOXTUI_REMOTE_VOXD"),
        (126, "sh: 1: exec: /opt/voxd/bin/voxd: Permission denied", Misconfigured, "Permission denied"),
        (2, "Usage: voxd\n\nError: No such command 'tunnel'.", Misconfigured, "too old"),
        (2, "Usage: voxd\n\nError: No such option: --link", Misconfigured, "too old"),
        (1, "This account is currently not available.", Unreachable, "status 1, and says: This account is"),
        (1, "me@gpu: Permission denied (publickey).", Unreachable, "status 1"),
        (-9, "", Unreachable, "status -9"),
        (None, "", Unreachable, "does not come to an end"),
    ],
)
def test_what_ran_there_failed(status: int | None, said: str, kind: type[Unreachable], words: str) -> None:
    """Words of ssh count only when ssh itself failed."""
    error = failure("box", status, said.splitlines())
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("code", "kind"), [("not_running", Unreachable), ("forbidden", Misconfigured), ("failed", Unreachable)]
)
def test_trouble_goes_before_all_else(code: str, kind: type[Unreachable]) -> None:
    trouble = Trouble("1.0", PROTOCOL, code, "no voxd answers; start it")  # type: ignore[arg-type]
    error = failure("box", 255, ["me@gpu: Permission denied (publickey)."], trouble)
    assert (type(error), str(error)) == (kind, "On box: no voxd answers; start it.")


@pytest.mark.parametrize(("theirs", "who"), [(PROTOCOL - 1, "voxd on box"), (PROTOCOL + 1, "voxtui here")])
def test_the_older_one_is_to_be_upgraded(theirs: int, who: str) -> None:
    error = other_protocol("box", "7.8.9", theirs)
    assert f"upgrade {who}." in str(error)
    assert "voxd 7.8.9" in str(error)


def test_nothing_acts_on_the_terminal() -> None:
    """This holds for everything that the far side may have written."""
    evil = "\x1b]0;title\x07evil\x1b[2J\r"
    trouble = Trouble("1", PROTOCOL, "failed", evil)
    texts = [
        str(failure("box", 255, [evil])),
        str(failure("box", 255, [f"Permission denied ({evil})"])),
        str(failure("box", 255, [f"ssh: Could not resolve hostname {evil}: x"])),
        str(failure("box", 127, [evil])),
        str(failure("box", None, [], trouble)),
        str(silence("box", 1, [evil])),
        str(other_protocol("box", evil, 9)),
        last_words([evil, "", "\x1b[2J"]),
    ]
    assert [text for text in texts if not text.isprintable() or "evil" not in text] == []


def test_long_words_are_cut() -> None:
    assert len(str(failure("box", 255, ["x" * 10_000]))) < 400
