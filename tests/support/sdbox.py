"""A real systemd as PID 1, with its journald, in namespaces of its own: no container runtime, no virtual machine.

The machine's own root is seen through an overlay that is thrown away; this tree and its packages lie under /opt/voxd,
for a service sees no home.  Needs root, overlayfs, cgroup2 and util-linux; nothing of the machine changes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
SITE = Path(pytest.__file__).parents[1]
SYSTEMD = Path("/lib/systemd/systemd")
PYTHON = Path("/usr/bin/python3")
ENVIRONMENT = ["env", "-i", "HOME=/root", "TERM=dumb", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"]
ENVIRONMENT.append("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")

# A virtual environment $0 in the folder $1, with a tree of its own if there is one, else this one.
ENVIRONMENT_OF = r"""
set -eu; cd "$1"; tree=tree; [ -d "$0/tree" ] && tree=$0/tree
packages=$0/lib/$(readlink -f /usr/bin/python3 | xargs basename)/site-packages
mkdir -p "$0/bin" "$packages"; ln -s /usr/bin/python3 "$0/bin/python"; echo 'home = /usr/bin' >"$0/pyvenv.cfg"
printf '/opt/voxd/%s\n' "$tree" site extra >"$packages/voxd.pth"
printf '#!/bin/sh\nPYTHONDONTWRITEBYTECODE=1 exec /opt/voxd/%s/bin/python -m voxd "$@"\n' "$0" >"$0/bin/voxd"
chmod 755 "$0/bin/voxd"
"""

# $1: an empty folder · $2: this tree · $3: its packages · $4: what makes an environment
INNER = r"""
set -eu
mount -t tmpfs -o mode=755 tmpfs "$1"; cd "$1"; mkdir up work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" root; cd root
mount -t proc proc proc; mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup 2>/dev/null || {
    mount -t tmpfs tmpfs sys/fs/cgroup; mount -t cgroup2 cgroup2 sys/fs/cgroup; }
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/pts dev/shm; ln -s /proc/self/fd dev/fd
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts; ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm; mount -t tmpfs -o mode=755 tmpfs run
mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys  # the machine's
mkdir -p opt/voxd/tree opt/voxd/site opt/voxd/extra
mount --bind "$2" opt/voxd/tree; mount --bind "$3" opt/voxd/site
bash -c "$4" 0.1.0 "$PWD/opt/voxd"; ln -s 0.1.0 opt/voxd/current
rm -rf etc/systemd/system/*.wants etc/voxd etc/machine-id; : >etc/machine-id
for name in systemd-udevd systemd-udev-trigger systemd-sysctl systemd-modules-load systemd-timesyncd systemd-networkd \
    systemd-random-seed systemd-remount-fs systemd-update-utmp systemd-logind systemd-binfmt systemd-pstore \
    getty@tty1 console-getty kmod-static-nodes; do ln -sf /dev/null etc/systemd/system/$name.service; done
mkdir -p etc/tmpfiles.d etc/systemd/journald.conf.d var/log/journal
ln -sf /dev/null etc/tmpfiles.d/tmp.conf; ln -sf /dev/null etc/systemd/system/tmp.mount  # they would empty /tmp
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
printf '[Journal]\nStorage=persistent\nReadKMsg=no\nRateLimitIntervalSec=0\n' >etc/systemd/journald.conf.d/box.conf
ip link set lo up 2>/dev/null || true
mkdir .old; pivot_root . .old; umount -l /.old
mount --make-rshared /  # credentials are mounted in a child and must be seen
exec env -i container=sdbox PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --log-target=journal --show-status=no
"""


def why_not() -> str | None:
    """What this machine lacks."""
    if os.geteuid() != 0:
        return "needs root"
    if missing := [name for name in ("unshare", "nsenter", "pivot_root") if shutil.which(name) is None]:
        return f"needs {', '.join(missing)}"
    if not SYSTEMD.exists():
        return "needs systemd"
    if _cgroups() is None:
        return "needs cgroup2"
    version = subprocess.run([PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
    if version.stdout.split() != [str(part) for part in sys.version_info[:2]]:
        return f"needs {PYTHON} of this version: a service sees no interpreter that lies in a home"
    return None


def _cgroups() -> Path | None:
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)


def until(holds: Callable[[], bool], what: str, seconds: float = 40) -> None:
    """Asks again and again."""
    latest = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < latest, f"{what}: not within {seconds} s"
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["tail", "-f", "/dev/null"], timeout=0.1, check=False)


class Box:
    """A booted system."""

    def __init__(self, folder: Path, cgroup: Path) -> None:
        self._cgroup, self._console = cgroup, folder / "console"
        cgroup.mkdir()
        (folder / "mnt").mkdir()
        command = ["unshare", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid", "--fork"]
        command += ["--propagation", "private", "bash", "-c", INNER, "bash", str(folder / "mnt"), str(TREE), str(SITE)]
        command.append(ENVIRONMENT_OF)
        with self._console.open("wb") as console:
            self._starter = subprocess.Popen(
                ["bash", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', str(cgroup), *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        until(lambda: self._starter.poll() is not None or self._is_up(), "systemd")
        if self._starter.poll() is not None:
            raise RuntimeError(f"systemd did not boot: {self._console.read_text()[-500:]}")

    @property
    def _init(self) -> str | None:
        found = Path(f"/proc/{self._starter.pid}/task/{self._starter.pid}/children").read_text().split()
        return found[0] if found else None

    def _is_up(self) -> bool:
        init = self._init
        if init is None or Path(f"/proc/{init}/comm").read_text().strip() != "systemd":
            return False
        return self.run("systemctl", "is-system-running", check=False) in ("running", "degraded")

    def run(self, *command: str, check: bool = True, text: str | None = None) -> str:
        """Output of a command inside."""
        enter = ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "-C", *ENVIRONMENT, *command]
        join = ["bash", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', str(self._cgroup), *enter]
        done = subprocess.run(join, input=text or "", capture_output=True, text=True, timeout=300, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def code(self, *command: str) -> int:
        """Exit status of a command inside."""
        return int(self.run("bash", "-c", '"$@" >/dev/null 2>&1; echo $?', "bash", *command))

    @property
    def socket(self) -> Path:
        """The service's, as this process reaches it."""
        return Path(f"/proc/{self._init}/root/run/voxd/voxd.sock")

    def put(self, path: str, text: str) -> None:
        self.run("bash", "-c", 'mkdir -p "$(dirname "$0")"; cat >"$0"', path, text=text)

    def down(self) -> None:
        if self._starter.poll() is None:
            subprocess.run(["kill", "-s", "RTMIN+4", str(self._init)], check=False)  # to systemd: power off
            with suppress(subprocess.TimeoutExpired):
                self._starter.wait(60)
        self._starter.kill()
        self._starter.wait()
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)


@contextmanager
def booted(folder: Path) -> Iterator[Box]:
    """Skips with a reason where it cannot be; VOXD_REQUIRE_SYSTEMD=1 makes that a failure."""
    reason, cgroups = why_not(), _cgroups()
    box = None
    if reason is None and cgroups is not None:
        try:
            box = Box(folder, cgroups / f"voxd-test-{os.getpid()}")
        except RuntimeError as error:
            reason = str(error)
    if box is None:
        assert not os.environ.get("VOXD_REQUIRE_SYSTEMD"), reason
        pytest.skip(f"no real systemd here: {reason}")
    try:
        yield box
    finally:
        box.down()


# ── the service in it ───────────────────────────────────────────────────────────────────────────────────────────────

VOXD = "/opt/voxd/current/bin/voxd"
SETTINGS = "/etc/voxd/config.yaml"
ECHO = "engines: {transcribe: echo, respond: echo}\n"
WHISPER = "engines: {transcribe: whisper}\n"
LEFT = ("over", "begun", "pids", "refused", "asked")  # by scripts, in /tmp


@contextmanager
def installed(folder: Path) -> Iterator[Box]:
    """The units as they are shipped."""
    with booted(folder) as box:
        box.run(VOXD, "install", "--system", "--yes")
        box.run("systemd-sysusers")
        yield box


def add_version(box: Box, version: str) -> None:
    """This tree as another version, in an environment beside the one that runs."""
    copy = f'mkdir -p "{version}/tree"; cp -r tree/shared tree/voxd tree/voxtui tree/systemd "{version}/tree"'
    edit = f'sed -i "s/^__version__ = .*/__version__ = \\"{version}\\"/" "{version}/tree/shared/__init__.py"'
    box.run("bash", "-c", f"set -e; cd /opt/voxd; rm -rf {version}; {copy}; {edit}")
    box.run("bash", "-c", ENVIRONMENT_OF, version, "/opt/voxd")


def reset(box: Box) -> Box:
    """Nothing runs; the settings are ECHO, the units as they are shipped."""
    box.run("systemctl", "stop", "voxd.socket", "voxd.service")
    box.run("rm", "-rf", "/etc/systemd/system/voxd.service.d", *(f"/tmp/{name}" for name in LEFT))
    box.put(SETTINGS, ECHO)
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "reset-failed")
    return box


def show(box: Box, name: str) -> str:
    return box.run("systemctl", "show", "voxd.service", "--property", name, "--value")


def drop_in(box: Box, text: str) -> None:
    box.put("/etc/systemd/system/voxd.service.d/test.conf", f"[Service]\n{text}\n")
    box.run("systemctl", "daemon-reload")


def records(box: Box, *matches: str) -> list[dict[str, str]]:
    box.run("journalctl", "--sync")
    lines = box.run("journalctl", "-u", "voxd", "-o", "json", "--no-pager", *matches, check=False).splitlines()
    return [json.loads(line) for line in lines]


def state(box: Box) -> dict[str, object]:
    found: dict[str, object] = json.loads(box.run(VOXD, "status", "--json"))
    return found
