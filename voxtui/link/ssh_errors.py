"""What ssh and the far `voxd tunnel` say when there is no tunnel, as a sentence for people.  Before step 2.

It knows the words of OpenSSH, which are the same in every language, and what helps.  Pure; it starts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from shared import __version__
from shared.safe_text import safe_line
from shared.tunnel import PROTOCOL, Trouble
from voxtui.errors import Misconfigured, Unreachable

SSH_FAILED = 255  # exit status of ssh for its own failures; any other one is the far command's
NOT_EXECUTABLE, NOT_FOUND, WRONG_USE = 126, 127, 2
SHOWN = 300  # characters of ssh's own words


class NoForwarding(Unreachable):
    """ssh cannot forward, at its near end or at the far one; what needs no forwarding may do."""


# The first row that is found in what ssh said.  {0} is the host; groups of the pattern have their names, {line} is all
# of the line in which it was found.
ROWS: tuple[tuple[str, type[Unreachable], str], ...] = (
    (
        r"Bad configuration option|bad configuration options|Bad owner or permissions|no argument after keyword"
        r"|[Uu]nsupported option|keyword .* extra arguments",
        Misconfigured,
        "ssh does not take its settings ({line}): correct that line.",
    ),
    (
        r"Could not resolve hostname (?P<name>[^:]*)",
        Unreachable,
        "ssh finds no host {name}: check its spelling, the Host lines of ~/.ssh/config, and whether this machine has a "
        "network.",
    ),
    (
        r"Host key for (?P<name>\S+) has changed",
        Misconfigured,
        "The host key of {0} has changed, so another machine may be answering in its place: only if the machine was "
        "really replaced, forget the old key with `ssh-keygen -R '{name}'` and run `ssh {0}` once.",
    ),
    (
        r"Host key verification failed",
        Misconfigured,
        "The host key of {0} is not known here yet: run `ssh {0}` once, and say yes if the fingerprint that it shows "
        "is the machine's own.",
    ),
    (
        r"Permissions \d+ for '(?P<key>[^'\s]+)' are too open",
        Misconfigured,
        "ssh does not use the key {key}, as other users can read it: `chmod 600 {key}` helps.",
    ),
    (
        r"Too many authentication failures",
        Misconfigured,
        "{0} was offered too many keys: name the right one with IdentityFile, and set IdentitiesOnly yes, under Host "
        "{0} in ~/.ssh/config.",
    ),
    (
        r"Permission denied \((?P<methods>[^)]*)\)",
        Misconfigured,
        "{0} lets none of your keys in (it takes: {methods}): `ssh {0}` must work without a question, so load the key "
        "with ssh-add or name it with IdentityFile in ~/.ssh/config, and name the right user (on EC2: ubuntu or "
        "ec2-user, and the .pem file).",
    ),
    (
        r"Unable to negotiate",
        Misconfigured,
        "ssh and {0} have no method in common ({line}): update the older of the two.",
    ),
    (
        r"connect to (?:host|address) .*?port \d+: (?P<why>.+)",
        Unreachable,
        "{0} cannot be reached ({why}): see whether it is on, whether this machine has a network, and whether a "
        "firewall (on EC2: the security group) lets ssh through.",
    ),
    (
        r"kex_exchange_identification|banner exchange|Connection (?:closed|reset|timed out) by (?:\S+ )?port"
        r"|Connection (?:closed|reset) by \S+ port|Connection to \S+ port \d+ timed out|Bad packet length",
        Unreachable,
        "{0} broke off before ssh could begin ({line}): see whether it is ssh that answers there.",
    ),
    (
        r"not responding|closed by remote host|Broken pipe|Connection reset by peer|Connection to \S+ closed"
        r"|client_loop|packet_write_wait",
        Unreachable,
        "The connection to {0} was lost ({line}).",
    ),
    (
        r"unix_listener: .*|cannot listen to port.*|Could not request local forwarding"
        r"|remote port forwarding failed",
        NoForwarding,
        "ssh cannot forward to {0} ({line}).",
    ),
)


def failure(host: str, status: int | None, said: Sequence[str], trouble: Trouble | None = None) -> Unreachable:
    """The error for a tunnel that did not come about.  `status`: ssh's exit status, None if it still runs; `said`: its
    standard error."""
    if trouble is not None:
        kind = Misconfigured if trouble.code == "forbidden" else Unreachable
        return kind(f"On {host}: {_shown(trouble.message)}.")
    last = last_words(said)
    if status in (NOT_FOUND, NOT_EXECUTABLE):
        return Misconfigured(
            f"There is no voxd to be run on {host} ({last}): install it there, or say where it is with "
            "VOXTUI_REMOTE_VOXD=/path/to/voxd."
        )
    if status == WRONG_USE and any(re.search("No such (command|option)", line) for line in said):
        return Misconfigured(f"The voxd on {host} is too old for tunnels: upgrade it there to {__version__} or newer.")
    if status == SSH_FAILED:
        for pattern, kind, sentence in ROWS:
            for line in said:
                if found := re.search(pattern, line):
                    words = {name: _shown(word) for name, word in found.groupdict().items()}
                    return kind(sentence.format(host, line=_shown(line), **words))
    how = "does not come to an end" if status is None else f"ended with status {status}"
    return Unreachable(f"ssh to {host} {how}, and says: {last}.")


def silence(host: str, seconds: float, said: Sequence[str]) -> Unreachable:
    """The error for an ssh that runs while nothing is heard of the far program."""
    return Unreachable(
        f"No voxd has answered through ssh to {host} within {seconds:.0f} s (ssh says: {last_words(said)}): see "
        f"whether `ssh {host}` works without a question."
    )


def other_protocol(host: str, version: str, protocol: int) -> Misconfigured:
    """The error for two programs that do not speak the same version of the protocol."""
    upgrade = f"upgrade voxd on {host}" if protocol < PROTOCOL else "upgrade voxtui here"
    return Misconfigured(
        f"voxd {_shown(version)} on {host} speaks version {protocol} of the tunnel's protocol, voxtui {__version__} "
        f"here speaks version {PROTOCOL}: {upgrade}."
    )


def last_words(said: Sequence[str]) -> str:
    """The last line that is not empty, fit for a terminal and for the end of a sentence."""
    return next((words for line in reversed(said) if (words := _shown(line))), "nothing")


def _shown(text: str) -> str:
    return safe_line(text)[:SHOWN].rstrip(". ")
