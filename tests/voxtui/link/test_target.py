"""voxtui.link.target: every form of a target, and of a token."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.fakes import short_folder
from voxtui.link.target import TargetError, local_target, parse_target, read_token


@pytest.mark.parametrize(
    ("text", "url", "label", "loopback"),
    [
        ("localhost:8000", "ws://localhost:8000/v1/realtime", "ws://localhost:8000", True),
        ("10.0.0.7:80", "ws://10.0.0.7:80/v1/realtime", "ws://10.0.0.7:80", False),
        ("[::1]:8000", "ws://[::1]:8000/v1/realtime", "ws://[::1]:8000", True),
        ("ws://gpu:8000", "ws://gpu:8000/v1/realtime", "ws://gpu:8000", False),
        ("ws://gpu:8000/", "ws://gpu:8000/v1/realtime", "ws://gpu:8000", False),
        ("http://gpu", "ws://gpu/v1/realtime", "ws://gpu", False),
        ("https://gpu.example", "wss://gpu.example/v1/realtime", "wss://gpu.example", False),
        ("wss://gpu/other?model=x", "wss://gpu/other?model=x", "wss://gpu/other", False),
    ],
)
def test_addresses(text: str, url: str, label: str, loopback: bool) -> None:
    target = parse_target(text)
    assert (target.url, target.label, target.loopback, target.socket) == (url, label, loopback, None)


def test_socket_paths() -> None:
    target = parse_target("unix:/tmp/x.sock")
    assert (target.socket, target.label, target.loopback) == (Path("/tmp/x.sock"), "unix:/tmp/x.sock", True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("me@gpu:22", "ssh://"),
        ("::1", "no host for ssh"),
        ("-oProxyCommand=touch /tmp/x", "no host for ssh"),
        ("me@-oProxyCommand=x", "no host for ssh"),
        ("ssh://-x/", "no host for ssh"),
        ("gpu;reboot", "no host for ssh"),
        ("gpu\nx", "no host for ssh"),
        ("", "no host for ssh"),
        ("unix:relative", "absolute"),
        ("ftp://gpu", "scheme"),
        ("ws://", "no host"),
        ("ws://gpu:port", "not a usable address"),
        ("ws://gpu:99999", "not a usable address"),
        ("gpu:0", "no host"),
        ("http://gpu:8000/#token=abc", "VOXD_TOKEN"),
        ("ws://me:abc@gpu:8000", "VOXD_TOKEN"),
    ],
)
def test_what_is_no_target(text: str, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        parse_target(text)


def test_a_secret_is_not_repeated() -> None:
    with pytest.raises(TargetError) as failure:
        parse_target("http://gpu:8000/#token=sesame")
    assert "sesame" not in str(failure.value)


def test_the_voxd_of_this_machine() -> None:
    """The control socket of the user, whether it is there or would be."""
    with short_folder() as folder:
        environ = {"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
        path = folder / "voxd" / "voxd.sock"
        path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            assert local_target(environ).socket == path


def test_tokens(tmp_path: Path) -> None:
    """The file goes before the environment; blanks around a token are no part of it."""
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert read_token({}, None) is None
    assert read_token({"VOXD_TOKEN": " from-env "}, None) == "from-env"
    assert read_token({"VOXD_TOKEN": "from-env"}, file) == "from-file"


@pytest.mark.parametrize("content", [b"", b"two words", b"\x00", "früh".encode(), b"\xff\xfe"])
def test_files_that_hold_no_token(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(TargetError):
        read_token({}, file)
    with pytest.raises(TargetError, match="No such file"):
        read_token({}, tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "ssh", "label"),
    [
        ("gpu", "gpu", "ssh:gpu"),
        ("ubuntu@ec2-1-2-3-4.compute.amazonaws.com", "ubuntu@ec2-1-2-3-4.compute.amazonaws.com", None),
        ("ssh://me@gpu", "me@gpu", "ssh:me@gpu"),
        ("ssh://me@gpu:2222", "ssh://me@gpu:2222", "ssh:me@gpu:2222"),
        ("me@[fe80::1%eth0]", "ssh://me@[fe80::1%eth0]", "ssh:me@[fe80::1%eth0]"),
    ],
)
def test_a_host_alone_is_reached_by_ssh(text: str, ssh: str, label: str | None) -> None:
    target = parse_target(text)
    assert target.ssh == ssh
    assert target.label == (label or f"ssh:{text}")
    assert target.loopback
