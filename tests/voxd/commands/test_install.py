"""A service is installed into a folder that stands for a system; systemd's own tools judge what lies there."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from voxd.cli import main
from voxd.commands.install import CannotInstall, check_program, steady

ROOT = Path(__file__).parents[3]
UNIT, SOCKET = "etc/systemd/system/voxd.service", "etc/systemd/system/voxd.socket"
TOKEN, DROP_IN = "etc/voxd/credentials/api-token", "etc/systemd/system/voxd.service.d/webrtc.conf"
needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def voxd(*arguments: str, answer: str | None = None, home: Path | None = None) -> Result:
    env = {"HOME": str(home), "XDG_CONFIG_HOME": None} if home else {}
    return CliRunner().invoke(main, list(arguments), input=answer, env=env)


def install(root: Path, *more: str) -> Result:
    return voxd("install", "--system", "--root", str(root), "--yes", *more)


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


# ── install ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_service_of_the_machine(tmp_path: Path) -> None:
    done = install(tmp_path)

    assert done.exit_code == 0, done.output
    assert files(tmp_path) == {UNIT, SOCKET, TOKEN, "etc/sysusers.d/voxd.conf"}
    assert "+ExecStart=/opt/voxd/current/bin/voxd start" in done.output
    assert done.output.splitlines()[-3:] == [
        "next:",
        "  sudo systemd-sysusers && sudo systemctl daemon-reload",
        "  sudo systemctl enable --now voxd.socket voxd.service",
    ]


def test_the_token_is_secret_and_stays(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        done = install(tmp_path)
    finally:
        os.umask(before)
    token = tmp_path / TOKEN
    secret = token.read_text()
    again = install(tmp_path, "--webrtc")

    assert len(secret) == 44
    assert secret.strip() not in done.output + again.output
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert token.read_text() == secret


def test_twice_is_as_once(tmp_path: Path) -> None:
    install(tmp_path)
    again = install(tmp_path)

    assert "nothing to write" in again.output
    assert files(tmp_path) == {UNIT, SOCKET, TOKEN, "etc/sysusers.d/voxd.conf"}


def test_nothing_is_written_without_a_yes(tmp_path: Path) -> None:
    done = voxd("install", "--system", "--root", str(tmp_path), answer="n\n")

    assert done.exit_code == 1
    assert "Write 4 files?" in done.output
    assert files(tmp_path) == set()


def test_a_changed_file_is_shown_and_kept(tmp_path: Path) -> None:
    install(tmp_path)
    unit = tmp_path / UNIT
    mine = unit.read_text().replace("WatchdogSec=20", "WatchdogSec=99")
    unit.write_text(mine)
    done = install(tmp_path)

    assert "-WatchdogSec=99" in done.output
    assert "+WatchdogSec=20" in done.output
    assert "WatchdogSec=20" in unit.read_text()
    assert unit.with_name("voxd.service.old").read_text() == mine
    assert "voxd.service.old" in done.output


def test_what_was_put_aside_is_never_written_over(tmp_path: Path) -> None:
    """An upgrade and the way back each put a unit aside; what somebody had edited before is kept."""
    install(tmp_path)
    unit = tmp_path / UNIT
    for seconds in (99, 77, 99):
        unit.write_text(unit.read_text().replace("WatchdogSec=20", f"WatchdogSec={seconds}"))
        install(tmp_path)
    kept = sorted(unit.parent.glob("voxd.service.old*"))
    done = voxd("uninstall", "--system", "--root", str(tmp_path), "--yes")

    assert [path.name for path in kept] == ["voxd.service.old", "voxd.service.old2"]
    assert ["WatchdogSec=99" in path.read_text() for path in kept] == [True, False]
    assert ["WatchdogSec=77" in path.read_text() for path in kept] == [False, True]
    assert all(f"left, as an earlier one or a changed one: {path}" in done.output for path in kept)


def test_a_full_disk_costs_nobody_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    unit = tmp_path / UNIT
    unit.write_text("mine")
    before = files(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("voxd.commands.install.os.fchmod", full)
    done = install(tmp_path)

    assert done.exit_code == 1
    assert "voxd.service cannot be written: No space left on device" in done.output
    assert (unit.read_text(), files(tmp_path)) == ("mine", before)


def test_who_may_not_write_is_told_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def barred(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("voxd.commands.install.os.open", barred)

    assert "cannot be written: Permission denied; try it as root, with sudo" in install(tmp_path).output


def test_an_open_sandbox_is_told(tmp_path: Path) -> None:
    """A drop-in of an earlier --webrtc outlives an upgrade, so a line says that it is there."""
    assert "remove" not in install(tmp_path, "--webrtc").output

    told = install(tmp_path).output

    assert "other machines may send to voxd, by an earlier --webrtc; to end that, remove /etc/systemd/system/" in told
    assert (tmp_path / DROP_IN).exists()


def test_a_masked_unit_is_left_alone(tmp_path: Path) -> None:
    unit = tmp_path / UNIT
    unit.parent.mkdir(parents=True)
    unit.symlink_to("/dev/null")
    done = install(tmp_path)

    assert done.exit_code == 1
    assert "masked" in done.output
    assert files(tmp_path) == {UNIT}


def test_a_service_of_a_user(tmp_path: Path) -> None:
    done = voxd("install", "--user", "--root", str(tmp_path), "--yes", home=Path("/home/ann"))

    assert done.exit_code == 0, done.output
    assert files(tmp_path) == {f"home/ann/.config/systemd/user/voxd.{kind}" for kind in ("service", "socket")}
    assert "systemctl --user enable --now voxd.socket voxd.service" in done.output


def test_where_there_is_no_systemd_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = voxd("install", "--user", "--yes", home=tmp_path)

    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].startswith("there is no systemctl here")


@pytest.mark.parametrize(
    ("program", "reason"),
    [("/home/ann/venv/bin/voxd", "hidden"), ("/root/v/bin/voxd", "hidden"), ("/opt/my voxd/voxd", "letters, digits")],
)
def test_a_program_that_the_service_could_not_run_is_refused(program: str, reason: str) -> None:
    with pytest.raises(CannotInstall, match=reason):
        check_program("system", Path(program))


def test_the_unit_names_the_link_that_an_upgrade_moves(tmp_path: Path) -> None:
    for version in ("0.1.0", "0.2.0"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "voxd").touch()
    alone = steady(tmp_path / "0.1.0/bin/voxd")
    (tmp_path / "current").symlink_to("0.1.0")

    assert alone == tmp_path / "0.1.0/bin/voxd"
    assert steady(tmp_path / "0.1.0/bin/voxd") == tmp_path / "current/bin/voxd"
    assert steady(tmp_path / "0.2.0/bin/voxd") == tmp_path / "current/bin/voxd"  # before the link is moved


# ── uninstall ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_uninstall_leaves_the_token_and_what_was_changed(tmp_path: Path) -> None:
    install(tmp_path, "--webrtc")
    wants = tmp_path / "etc/systemd/system/sockets.target.wants/voxd.socket"
    wants.parent.mkdir()
    wants.symlink_to("/etc/systemd/system/voxd.socket")
    (tmp_path / SOCKET).write_text("mine")
    done = voxd("uninstall", "--system", "--root", str(tmp_path), "--yes")

    assert done.exit_code == 0, done.output
    assert files(tmp_path) == {TOKEN, f"{SOCKET}.old"}
    assert not (tmp_path / DROP_IN).parent.exists()
    assert (tmp_path / f"{SOCKET}.old").read_text() == "mine"
    assert "nothing to remove" in voxd("uninstall", "--system", "--root", str(tmp_path), "--yes").output


# ── what systemd says of it ─────────────────────────────────────────────────────────────────────────────────────────


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=300, check=False)


@needs_analyze
@pytest.mark.parametrize("kind", ["system", "user"])
def test_systemd_understands_every_line(tmp_path: Path, kind: str) -> None:
    """systemd wants the program to exist, so a stand-in of its name does."""
    program = tmp_path / "voxd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    source = ROOT / "systemd" / ("user" if kind == "user" else "")
    for name in ("voxd.service", "voxd.socket"):
        text = (source / name).read_text().replace("/opt/voxd/current/bin/voxd", str(program))
        (tmp_path / name).write_text(text.replace("/usr/bin/nvidia-modprobe", str(program)))
    told = analyze("verify", "--man=no", *(str(tmp_path / name) for name in ("voxd.service", "voxd.socket")))
    ours = [line for line in told.stderr.splitlines() if "voxd" in line]

    assert ours == []


@needs_analyze
@pytest.mark.parametrize(("more", "limit"), [((), 12), (("--webrtc",), 14)])
def test_the_sandbox_is_as_tight_as_promised(tmp_path: Path, more: tuple[str, ...], limit: int) -> None:
    """systemd's exposure score in tenths rises when somebody drops a line."""
    install(tmp_path, *more)
    units = tmp_path / "etc/systemd/system"
    text = (units / "voxd.service").read_text()
    if more:  # systemd-analyze reads no drop-ins of a file that lies anywhere
        text += (units / "voxd.service.d/webrtc.conf").read_text()
    (tmp_path / "voxd.service").write_text(text)
    told = analyze("security", "--offline=true", f"--threshold={limit}", "--no-pager", str(tmp_path / "voxd.service"))

    assert told.returncode == 0, told.stdout.splitlines()[-1]
    assert "Overall exposure level" in told.stdout


def test_what_the_templates_must_say() -> None:
    """Other parts rely on these lines, and no tool would notice that one is missing."""
    unit = (ROOT / "systemd" / "voxd.service").read_text().splitlines()

    assert "LoadCredential=api-token:/etc/voxd/credentials/api-token" in unit
    assert "RestartPreventExitStatus=78" in unit
    reloads = [line for line in unit if line.startswith("ExecReload=")]
    assert reloads == ["ExecReload=/opt/voxd/current/bin/voxd start --check", "ExecReload=/bin/kill -HUP $MAINPID"]
    assert "RuntimeDirectoryPreserve=yes" in unit
    assert not [line for line in unit if line.startswith("MemoryDenyWriteExecute")]  # whisper would fail
