"""`python -m tests.chaos.sandboxed COMMAND...`: the command under everything at once that systemd/voxd.service asks
for, on a machine without systemd.

As root.  What the kernel or the place does not allow is left out and said on standard error, one line each; so is what
only systemd can do.  The state folder ($SANDBOX_STATE) and /tmp can be written to, the latter is new and empty."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos import seccomp

NOBODY = 65534
STATE = "/var/lib/voxd-sandbox"
NEW_MOUNTS, NEW_HOST, NEW_USERS = 0x20000, 0x04000000, 0x10000000  # CLONE_NEWNS, NEWUTS, NEWUSER
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18  # MS_*
NO_SETUID, NO_DEVICES = 2, 4
MOUNT_SETATTR, KEYCTL = 442, 250
NEVER = (
    "DevicePolicy=closed, IPAddressDeny=any, TasksMax: cgroups with programs, which systemd sets up",
    "LoadCredential, sockets, the watchdog: not restrictions",
)
libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    given = [each.encode() if each else None for each in (source, target, kind, data)]
    _checked(libc.mount(given[0], given[1], given[2], ctypes.c_ulong(flags), given[3]), f"mount on {target}")


def _bind(source: str, target: str, more: int = 0) -> None:
    _mount(source, target, None, BIND | RECURSIVE)
    if more:
        _mount("", target, None, BIND | REMOUNT | more)


class _Attributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace"))


def _set_read_only(path: str, *, on: bool) -> None:
    """Makes a mount read-only, with all mounts below it."""
    given = _Attributes(1, 0, 0, 0) if on else _Attributes(0, 1, 0, 0)  # MOUNT_ATTR_RDONLY
    found = libc.syscall(MOUNT_SETATTR, -100, path.encode(), 0x8000, ctypes.byref(given), ctypes.sizeof(given))
    _checked(found, f"mount_setattr of {path}")


# ── what the unit asks for, in the order in which it can be had ─────────────────────────────────────────────────────


def own_mounts() -> None:
    _checked(libc.unshare(NEW_MOUNTS), "unshare")
    _mount("", "/", None, PRIVATE | RECURSIVE)


def own_tmp() -> None:
    for path in ("/tmp", "/var/tmp"):
        _empty(path, "mode=1777")


def no_homes() -> None:
    for path in filter(os.path.isdir, ("/home", "/root", "/run/user")):
        _empty(path, "mode=711")


def _empty(path: str, data: str) -> None:
    """Empties a folder, except for what the command itself needs."""
    needed = {os.getcwd(), sys.prefix, sys.base_prefix, os.environ["SANDBOX_STATE"]}
    kept = {each: os.open(each, os.O_PATH) for each in needed if each.startswith(f"{path}/")}
    _mount("tmpfs", path, "tmpfs", NO_SETUID | NO_DEVICES, data)
    for name, number in sorted(kept.items()):  # what lies in another is there with it
        if not any(name.startswith(f"{other}/") for other in kept):
            os.makedirs(name)
            _bind(f"/proc/self/fd/{number}", name)
        os.close(number)


def read_only() -> None:
    """Makes the system read-only, except for /dev, /proc and /sys, which another line of the unit covers."""
    state = os.environ["SANDBOX_STATE"]
    _bind(state, state)
    _set_read_only("/", on=True)
    for path in ("/dev", "/proc", "/tmp", "/var/tmp", state):
        _set_read_only(path, on=False)


def kernel() -> None:
    for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"):
        if os.path.exists(path):
            _bind(path, path, READ_ONLY)
    _set_read_only("/sys", on=True)
    for path in ("/proc/kmsg", "/dev/kmsg", "/proc/kallsyms"):
        if os.path.exists(path):
            _bind("/dev/null", path)


def own_processes_only() -> None:
    """Hides other users' processes; it comes before what is mounted below /proc."""
    _mount("proc", "/proc", "proc", 0, "hidepid=invisible")


def host_name() -> None:
    _checked(libc.unshare(NEW_HOST), "unshare")


def keyring() -> None:
    if libc.syscall(KEYCTL, 1, None) < 0:  # KEYCTL_JOIN_SESSION_KEYRING
        raise OSError(ctypes.get_errno(), "keyctl")


def limits() -> None:
    os.umask(0o077)
    refused = []
    for name, value in (("NOFILE", 65536), ("MEMLOCK", resource.RLIM_INFINITY), ("CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        except ValueError:
            refused.append(f"Limit{name}={value if value >= 0 else 'infinity'}")
    if refused:
        raise OSError(f"not allowed: {', '.join(refused)}")


def own_users() -> None:
    """Itself and root, as PrivateUsers= has it; the process that has the right to writes the tables."""
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{os.getppid()}/{name}").write_text(f"0 0 1\n{NOBODY} {NOBODY} 1\n")
        os.write(done[1], b"1")
        os._exit(0)
    found = libc.unshare(NEW_USERS)
    os.write(ready[1], b"1")
    os.close(done[1])
    told = os.read(done[0], 1)
    os.waitpid(child, 0)
    _checked(found, "unshare")
    if not told:
        raise OSError("its tables cannot be written")


def no_privileges() -> None:
    """Gives up all privileges and capabilities for good."""
    for capability in range(41):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    _checked(libc.prctl(38, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


MOUNTS = "PrivateMounts"  # without mounts of its own the sandbox must not touch the machine's
STEPS: tuple[tuple[str, Callable[[], None]], ...] = (
    ("KeyringMode=private", keyring),
    ("ProtectHostname", host_name),
    (MOUNTS, own_mounts),
    ("ProtectProc=invisible", own_processes_only),
    ("PrivateTmp", own_tmp),
    ("ProtectHome", no_homes),
    ("ProtectSystem=strict", read_only),
    ("ProtectKernelTunables, -Logs, ProtectControlGroups", kernel),
    ("limits, UMask", limits),
    ("PrivateUsers", own_users),
    ("User, CapabilityBoundingSet=, NoNewPrivileges", no_privileges),
    ("SystemCallFilter, RestrictAddressFamilies, -Namespaces, -SUIDSGID, LockPersonality", seccomp.install),
)


def apply(tell: Callable[[str], None]) -> list[str]:
    """Applies the sandbox to this process for good.  Returns what could not be applied, and why."""
    missing: list[str] = []
    mounting = {own_processes_only, own_tmp, no_homes, read_only, kernel}
    for name, step in STEPS:
        try:
            if step in mounting and any(line.startswith(MOUNTS) for line in missing):
                raise OSError(f"needs {MOUNTS}")
            step()
        except OSError as error:
            missing.append(f"{name}: {error}")
            tell(f"sandbox: NOT applied: {missing[-1]}")
        else:
            tell(f"sandbox: {name}")
    for line in NEVER:
        tell(f"sandbox: not here: {line}")
    return missing


def environment(state: Path) -> dict[str, str]:
    """The environment that the unit sets."""
    cache = state / "cache"
    folders = {"XDG_CACHE_HOME": "", "HF_HOME": "hf", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    folders |= {"TRITON_CACHE_DIR": "triton", "CUDA_CACHE_PATH": "nv"}
    more = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {
        **{name: str(cache / folder) for name, folder in folders.items()},
        **more,
        "HOME": str(state),
        "XDG_RUNTIME_DIR": str(state / "run"),
        "SANDBOX_STATE": str(state),
    }


def main(command: Sequence[str]) -> None:
    if not command or os.geteuid() != 0:
        sys.exit("as root: python -m tests.chaos.sandboxed COMMAND...")
    state = Path(os.environ.get("SANDBOX_STATE", STATE))
    for folder in (state, state / "cache", state / "run"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(folder, NOBODY, NOBODY)
    os.environ.update(environment(state))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    apply(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main(sys.argv[1:])
