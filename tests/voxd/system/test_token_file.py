"""The token of TCP listeners: who may read it, where it never stands, how it is compared."""

from __future__ import annotations

import ast
import errno
import os
import stat
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from shared import config
from tests.project.test_architecture import dotted, sources, tree
from tests.support.daemon import voxd_process
from voxd.cli import main
from voxd.system import token_file
from voxd.system.token_file import TokenError


def test_a_token_is_made_once_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "token"
    made = token_file.load_or_make(path)
    assert len(made) >= 43, "32 random bytes"
    assert token_file.load_or_make(path) == made == token_file.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert token_file.load_or_make(tmp_path / "other") != made


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o660, 0o604, 0o601])
def test_a_token_that_others_can_read_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    token_file.load_or_make(path)
    path.chmod(mode)
    with pytest.raises(TokenError, match=rf"mode {mode:04o} lets others read it; run: chmod 600 {path}"):
        token_file.load(path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "token"
    token_file.load_or_make(real)
    link.symlink_to(real)
    with pytest.raises(TokenError, match="is a symbolic link, which is not followed"):
        token_file.load(link)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TokenError):
        token_file.load_or_make(dangling)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token_file.load_or_make(path)
    os.chown(path, 65534, 65534)
    with pytest.raises(TokenError, match="belongs to another user"):
        token_file.load(path)


def test_an_empty_token_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    with pytest.raises(TokenError, match="is empty"):
        token_file.load(path)


@pytest.mark.parametrize("data", [b"\xff\xfe", "sch\u00f6n".encode(), b"two words", b"escape\x1b[2J"])
def test_what_is_no_token_is_refused_in_one_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_bytes(data)
    for read in (token_file.load, token_file.load_credential):
        with pytest.raises(TokenError, match="expected one word of ASCII"):
            read(path)


def test_a_folder_or_a_pipe_is_no_token(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(TokenError, match="expected a file"):
            token_file.load_or_make(path)


def test_a_full_disk_leaves_no_empty_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file would keep every later start from making a token."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "token"
    with monkeypatch.context() as disk:
        disk.setattr("voxd.system.token_file.os.fdopen", full)
        with pytest.raises(TokenError, match="cannot be written: No space left"):
            token_file.load_or_make(path)
    assert len(token_file.load_or_make(path)) >= 43


def test_a_token_of_ones_own_is_not_taken_for_the_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose file only root reads: a client that was given this one would be refused."""
    monkeypatch.setattr(config, "SYSTEM_CREDENTIAL", tmp_path / "credentials" / "api-token")
    monkeypatch.setattr(config, "SYSTEM_CONFIG", tmp_path / "config.yaml")
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    alone = CliRunner().invoke(main, ["token"], env=environ)
    (tmp_path / "credentials").mkdir()
    beside = CliRunner().invoke(main, ["token"], env=environ)

    assert (alone.exit_code, alone.stderr) == (0, "")
    assert beside.stdout == alone.stdout
    assert "sudo voxd token" in beside.stderr


def equalities(path: Path) -> list[str]:
    """`==` and `!=` between anything that is named like a secret: they take as long as the strings agree."""
    words = {"token", "secret", "key", "wanted", "resume_token"}
    return [
        f"{path.name}:{node.lineno}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
        for side in (node.left, *node.comparators)
        if dotted(side).split(".")[-1] in words
    ]


def test_no_secret_is_compared_byte_by_byte() -> None:
    files = [path for path in sources("voxd") if path.parent.name in ("voxd", "gateway", "web", "webrtc", "system")]
    assert [line for path in files for line in equalities(path)] == []
    used = {path.name for path in files if "compare_digest" in path.read_text()}
    assert used == {"gate.py", "client_secrets.py", "parking.py"}


def facts_of(pid: int) -> bytes:
    """What everybody on this machine may see of a process, and what its user may."""
    folder = Path(f"/proc/{pid}")
    return (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_it_stands_in_no_log_and_no_environment() -> None:
    """The token is offered rightly, wrongly and in a query, over a socket that asks for it."""
    with voxd_process("--transcribe", "echo", "--listen", "127.0.0.1:0", env={"VOXD_LOG_LEVEL": "debug"}) as daemon:
        secret = (daemon.folder / ".local" / "state" / "voxd" / "token").read_text().strip()
        listening = daemon.status()["listen"]
        assert isinstance(listening, list)
        async with httpx.AsyncClient(base_url=f"http://{listening[0]}") as http:
            good = {"Authorization": f"Bearer {secret}"}
            assert (await http.get("/status", headers=good)).status_code == 200
            for wrong in (secret[:-1], secret + "x", secret.upper(), "é" * 43):
                bad = {b"Authorization": b"Bearer " + wrong.encode()}
                assert (await http.get("/status", headers=bad)).status_code in (401, 429)
            assert (await http.get(f"/status?token={secret}")).status_code in (401, 429)
            told = (await http.get("/status", headers=good)).text + (await http.get("/metrics", headers=good)).text
        shown = b"".join(map(facts_of, (daemon.process.pid, int(str(daemon.status()["engine_pid"])))))
        daemon.process.terminate()
        assert daemon.ended(60)
        written = shown.decode(errors="replace") + daemon.log.read_text()
    assert "stopped" in written
    assert secret not in told + written
