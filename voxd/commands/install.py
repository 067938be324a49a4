"""The files of a systemd service: what they should be, how that differs from what is there, and writing them.

Not in the path.  It knows the templates (`voxd/units`) and where systemd looks; it asks nothing and starts
nothing.
Under a `root` other than / the files are for the system that will have that root (an image, a test).
"""

from __future__ import annotations

import contextlib
import difflib
import filecmp
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from shared.config import SYSTEM_CREDENTIAL

TEMPLATES = Path(__file__).parents[1] / "units"
PROGRAM = "/opt/voxd/current/bin/voxd"  # in the templates
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # from a service with ProtectHome= and PrivateTmp=
SYSTEM_UNITS = Path("/etc/systemd/system")
SYSUSERS = Path("/etc/sysusers.d/voxd.conf")
DROP_INS = "voxd.service.d"
Kind = Literal["system", "user"]


class CannotInstall(Exception):
    """The service cannot be installed or removed; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of the service.  `secret`: it is made once, never shown and never changed."""

    path: Path
    text: str
    mode: int = 0o644
    secret: bool = False


def units_folder(kind: Kind, environ: Mapping[str, str]) -> Path:
    """The folder in which systemd looks for units of that kind."""
    if kind == "system":
        return SYSTEM_UNITS
    chosen = Path(environ.get("XDG_CONFIG_HOME") or ".")
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    return (chosen if chosen.is_absolute() else home / ".config") / "systemd" / "user"


def webrtc_drop_in(folder: Path) -> Path:
    """The drop-in of the units in `folder`; where it exists, other machines may send to the service."""
    return folder / DROP_INS / "webrtc.conf"


def pieces(kind: Kind, program: Path, environ: Mapping[str, str], *, webrtc: bool) -> tuple[Piece, ...]:
    """All files that a service of that kind needs."""
    folder, source = units_folder(kind, environ), TEMPLATES / "user" if kind == "user" else TEMPLATES
    service = (source / "voxd.service").read_text().replace(PROGRAM, str(program))
    found = [
        Piece(folder / "voxd.service", service),
        Piece(folder / "voxd.socket", (source / "voxd.socket").read_text()),
    ]
    if kind == "system":
        found.append(Piece(SYSUSERS, (TEMPLATES / "voxd.sysusers").read_text()))
        found.append(Piece(SYSTEM_CREDENTIAL, secrets.token_urlsafe(32) + "\n", 0o600, secret=True))
        if webrtc:
            found.append(Piece(webrtc_drop_in(folder), (TEMPLATES / "webrtc.conf").read_text()))
    return tuple(found)


def steady(program: Path) -> Path:
    """The same program by a name that outlives an upgrade: through the link `current` beside its environment."""
    link = program.parent.parent.with_name("current")
    through = link / "bin" / program.name
    return through if link.is_symlink() and through.exists() else program


def check_program(kind: Kind, program: Path) -> None:
    """Raises CannotInstall if the unit could not start it."""
    if not re.fullmatch(r"/[A-Za-z0-9._/+-]+", str(program)):
        raise CannotInstall(f"a unit cannot name {str(program)!a}: install it at a path of letters, digits and ._+-")
    if kind == "user":
        return
    python = program.parent / "python"
    for path in (program, *([python.resolve()] if python.exists() else [])):
        if any(path.is_relative_to(folder) for folder in HIDDEN):
            advice = "python3 -m venv /opt/voxd/VERSION, with a python3 under /usr, and install the wheel there"
            raise CannotInstall(f"{path} is hidden from a service of the system; make it: {advice}")


def unit_files(kind: Kind, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """What `voxd uninstall` removes: all but the token, and what `systemctl enable` has made."""
    folder = units_folder(kind, environ)
    found = [
        folder / ("multi-user.target.wants" if kind == "system" else "default.target.wants") / "voxd.service",
        folder / "sockets.target.wants" / "voxd.socket",
        webrtc_drop_in(folder),
        folder / "voxd.service",
        folder / "voxd.socket",
    ]
    return (*found, SYSUSERS) if kind == "system" else tuple(found)


# ── what is there ───────────────────────────────────────────────────────────────────────────────────────────────────


def below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def pending(wanted: Iterable[Piece], root: Path) -> tuple[Piece, ...]:
    """The files that are missing or differ.  Raises CannotInstall where something else than a file is in the way."""
    return tuple(piece for piece in wanted if _differs(piece, below(root, piece.path)))


def _differs(piece: Piece, place: Path) -> bool:
    try:
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise CannotInstall(f"{place} is no ordinary file (a masked unit is a link); remove it first")
        return not place.exists() if piece.secret else _read(place) != piece.text
    except PermissionError as error:
        raise CannotInstall(f"{place} may not be read by this user; as root: sudo voxd install --system") from error


def _read(place: Path) -> str | None:
    return place.read_text(errors="replace") if place.exists() else None


def diff(piece: Piece, root: Path) -> Iterator[str]:
    """The lines of a unified diff; a secret is not shown."""
    place = below(root, piece.path)
    if piece.secret:
        yield f"+++ {place} (a new token, mode {piece.mode:04o})"
        return
    before = _read(place)
    name = "/dev/null" if before is None else str(place)
    lines = difflib.unified_diff((before or "").splitlines(), piece.text.splitlines(), name, str(place), lineterm="")
    yield from lines


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(piece: Piece, root: Path) -> Path | None:
    """Writes the whole file or nothing; what was there before is kept beside it, and its path returned.

    Raises CannotInstall."""
    place = below(root, piece.path)
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if piece.secret else 0o755)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, piece.mode), "w") as file:
            os.fchmod(file.fileno(), piece.mode)  # whatever the umask
            file.write(piece.text)
        old = _put_aside(place) if place.exists() else None
        new.rename(place)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise CannotInstall(f"{place} cannot be written: {_why(error)}") from error
    return old


def _put_aside(place: Path) -> Path:
    """Renames to NAME.old, NAME.old2 and so on, which systemd does not read.  A different file of such a name is never
    overwritten, for somebody may have edited it; an equal one is."""
    found = (place.with_name(f"{place.name}.old{number if number > 1 else ''}") for number in count(1))
    return place.replace(next(old for old in found if not os.path.lexists(old) or filecmp.cmp(old, place, False)))


def put_aside(paths: Iterable[Path], root: Path) -> tuple[Path, ...]:
    """The files that were put aside beside these, now or earlier."""
    places = (below(root, path) for path in paths)
    return tuple(old for place in places for old in sorted(place.parent.glob(f"{place.name}.old*")))


def remove(paths: Iterable[Path], known: Mapping[Path, str], root: Path) -> Iterator[tuple[Path, Path | None]]:
    """Removes the files; yields each with the place where it was put aside, if somebody had changed it.

    `known`: their texts as installed.  Raises CannotInstall."""
    for path in paths:
        place = below(root, path)
        try:
            changed = not place.is_symlink() and path in known and _read(place) != known[path]
            old = _put_aside(place) if changed else None
            if old is None:
                place.unlink()
            if place.parent.name == DROP_INS:
                _remove_if_empty(place.parent)
        except OSError as error:
            raise CannotInstall(f"{place} cannot be removed: {_why(error)}") from error
        yield place, old


def _why(error: OSError) -> str:
    return f"{error.strerror}; try it as root, with sudo" if isinstance(error, PermissionError) else str(error.strerror)


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()
