"""`voxd doctor`: all that `voxd start` needs on this machine, one line each: good, or what to do about it.

Not in the path.  It knows files, sockets, /proc and what engines say of themselves.  It loads no model, opens no device
and changes nothing.  It does not know how a daemon serves: whether one runs and is ready, `voxd status` tells.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from shared import __version__
from shared.config import ConfigError, Loaded, client_socket, control_socket, credential_path, load, token_path
from shared.extras import SERVER, how_to_install, missing
from shared.report import Finding, Mark, Report
from shared.settings import SOCKET_PATH_MAX, Settings, Tcp, listener
from voxd.commands import control
from voxd.commands.install import Kind, units_folder
from voxd.engine import auto
from voxd.engine.contract import Unusable
from voxd.engine.gpu.weights import hub_cache, weights_absent
from voxd.engine.realtime.interface import MODEL
from voxd.engine.realtime.presence import GPU
from voxd.engine.registry import engine_class, engine_for
from voxd.messages import Role
from voxd.system.sockets import CannotStart, listeners
from voxd.system.token_file import TokenError, load as load_token

DRIVER = Path("/proc/driver/nvidia/version")
MODEL_GB = 8.9  # of the released Voxtral Realtime
ANSWER_S = 5.0  # of systemctl, of a running voxd
KINDS: tuple[tuple[Kind, tuple[str, ...], str], ...] = (
    ("system", ("systemctl",), "sudo systemctl"),
    ("user", ("systemctl", "--user"), "systemctl --user"),
)


def doctor(config: Path | None, environ: Mapping[str, str], out: Callable[[str], None]) -> bool:
    """Examines, and gives `out` lines.  `config`: the settings file, None for the usual places.  True: it can start."""
    terminal, utf8 = sys.stdout.isatty(), (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    plain = environ.get("TERM", "dumb") == "dumb" or bool(environ.get("NO_COLOR"))
    width = shutil.get_terminal_size().columns if terminal else 0
    report = Report(out, width=width, utf8=utf8, coloured=terminal and not plain)
    try:
        loaded = load(config, environ)
    except ConfigError as error:
        bad = _finding(
            "settings", "bad", str(error), "Correct that line; config.yaml in the source tree explains every setting."
        )
        report.group("Settings", [bad])
        report.group("This machine", [_python(), _service(environ)])
        report.more(_finding("the rest", "skipped", "not checked: the settings must be right first"))
        return False
    settings = loaded.settings
    report.group("Settings", [_settings(loaded), *_engines(settings, environ)])
    report.group("This machine", [_python(), _gpu(settings, environ), _disk(settings, environ), _service(environ)])
    report.group("Sockets", _sockets(settings, environ))
    return report.healthy


def _finding(name: str, mark: Mark, detail: str, *remedy: str) -> Finding:
    return Finding(name, mark, detail, remedy)


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _settings(loaded: Loaded) -> Finding:
    place = str(loaded.source or "no file: defaults")
    if loaded.warnings:
        return _finding("settings", "warn", f"{place}; {'; '.join(loaded.warnings)}", "Correct the name, or unset it.")
    return _finding("settings", "ok", place)


def _chosen(settings: Settings, environ: Mapping[str, str]) -> dict[Role, auto.Choice]:
    """The engine of each role, and what `auto` says about it."""
    engines, options = settings.engines, settings.engine_options
    transcriber = auto.transcriber(engines.transcribe, options, environ)
    responder = auto.responder(engines.respond, transcriber.name is not None, options, environ)
    return {"transcribe": transcriber, "respond": responder}


def _engines(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    chosen = _chosen(settings, environ)
    for role in get_args(Role):
        name, why = chosen[role].name, chosen[role].why
        if name is None:
            yield _finding(role, "skipped", f"none: {why}" if why else f"none (engines.{role})")
            continue
        found = _engine(role, name, settings)
        if role == "respond" and found.mark == "ok" and chosen["transcribe"].name is None and _reads_text(name):
            found = _finding(
                role,
                "bad",
                f"{name} answers text, and nothing writes the speech down",
                "Set engines.transcribe: auto.",
            )
        if found.mark == "ok" and (detail := chosen[role].detail):
            found = _finding(role, "ok", f"{found.detail}, by auto; {detail}")
        yield found


def _engine(role: Role, name: str, settings: Settings) -> Finding:
    """Whether the engine can serve: its packages, its options, its weights."""
    options: dict[str, Any] = settings.engine_options.get(name, {})
    try:
        found = engine_for(role, name)
        found(options, lambda: None)
        lack = found.absent(options)
    except Unusable as reason:
        return _finding(role, "bad", str(reason), f"`voxd engines` lists what is here; engines.{role} chooses.")
    if lack:
        return _finding(role, "warn" if found.capabilities.fetches else "bad", f"{name}: {lack}")
    return _finding(role, "ok", name)


def _reads_text(name: str) -> bool:
    return engine_class(name).capabilities.reads_text


# ── this machine ────────────────────────────────────────────────────────────────────────────────────────────────────


def _python() -> Finding:
    here = f"{platform.python_version()}, voxd {__version__}"
    if absent := missing(SERVER):
        return _finding("Python", "bad", f"{here}: needs {', '.join(absent)}", how_to_install("server"))
    return _finding("Python", "ok", here)


def _gpu(settings: Settings, environ: Mapping[str, str]) -> Finding:
    wanted = any(choice.name == auto.REALTIME for choice in _chosen(settings, environ).values())
    device = settings.engine_options.get(auto.REALTIME, {}).get("device", "auto")
    driver, there = _driver(), [path for path in GPU if path.exists()]
    if there and os.access(there[0], os.R_OK | os.W_OK):
        return _finding("GPU", "ok", f"{there[0]}, NVIDIA driver {driver or 'of unknown version'}")
    if there:
        detail, how = f"{there[0]} may not be opened by this user", f"ls -l {there[0]} shows its group; join it."
    elif driver:
        detail, how = f"NVIDIA driver {driver} is loaded, but {GPU[0]} is not there", "sudo nvidia-modprobe -c 0 -u"
    else:
        detail, how = "none visible", "Install NVIDIA's driver, or choose engines.transcribe: whisper."
    if not wanted or device == "cpu":
        return _finding("GPU", "skipped", f"{detail}; the engines chosen need none")
    return _finding("GPU", "bad" if device == "cuda" else "warn", f"{detail}; {auto.REALTIME} is made for one", how)


def _driver() -> str:
    """`550.54.15`, as the kernel module says; "" without one."""
    try:
        found = re.search(r"Module\D*\s(\d+\.[\d.]+)", DRIVER.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def _disk(settings: Settings, environ: Mapping[str, str]) -> Finding:
    folder = hub_cache(environ)
    free = shutil.disk_usage(_nearest(folder)).free / 1e9
    detail = f"{free:.0f} GB free for models ({folder})"
    model = settings.engine_options.get(auto.REALTIME, {}).get("model", MODEL)
    if free < MODEL_GB and weights_absent(str(model), environ):
        return _finding(
            "disk",
            "warn",
            f"{detail}; Voxtral Realtime takes {MODEL_GB}",
            "Make room, or set HF_HOME to a larger disk.",
        )
    return _finding("disk", "ok", detail)


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _service(environ: Mapping[str, str]) -> Finding:
    for kind, command, typed in KINDS:
        if os.path.lexists(units_folder(kind, environ) / "voxd.service"):
            return _state(f"of {'the machine' if kind == 'system' else 'this user'}", command, typed, environ)
    return _finding("service", "skipped", "none: `voxd install` would make voxd one")


def _state(whose: str, command: tuple[str, ...], typed: str, environ: Mapping[str, str]) -> Finding:
    try:
        asked = [*command, "is-active", "voxd.service"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER_S, env=dict(environ), check=False)
        said = done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    if said == "failed":
        how = f"`voxd logs` tells why; then: {typed} restart voxd.service"
        return _finding("service", "warn", f"{whose}: failed", how)
    if said == "inactive":
        how = f"{typed} enable --now voxd.socket voxd.service"
        return _finding("service", "warn", f"{whose}: installed, and does not run", how)
    if said in ("active", "activating", "reloading", "deactivating"):
        return _finding("service", "ok", f"{whose}: {said}")
    return _finding("service", "skipped", f"{whose}: installed; systemd does not say how it is")


# ── sockets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sockets(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    running = _running(settings, environ)
    yield _control(settings, environ, running)
    taken = running.get("listen")
    addresses = [(text, listener(text)) for text in settings.server.listen]
    for _, address in addresses:
        yield _listener(address, taken if isinstance(taken, list) else [])
    over_tcp = any(isinstance(address, Tcp) for _, address in addresses)
    yield _token(settings, environ, over_tcp=over_tcp)
    if settings.server.tls_cert and settings.server.tls_key:
        yield _tls(settings.server.tls_cert, settings.server.tls_key)
    if settings.webrtc.enabled:
        yield _calls(settings)


def _running(settings: Settings, environ: Mapping[str, str]) -> dict[str, object]:
    """The status of the voxd that runs here; {} if none does."""
    chosen = settings.server.socket
    try:
        return control.status(client_socket(environ) if chosen == "auto" else Path(chosen), ANSWER_S)
    except (control.NotRunning, PermissionError, ConfigError):
        return {}


def _control(settings: Settings, environ: Mapping[str, str], running: Mapping[str, object]) -> Finding:
    if running:
        said = f"{running.get('socket')}: voxd {running.get('version')} runs (pid {running.get('pid')})"
        return _finding("socket", "ok", f"{said}, {running.get('state')}")
    chosen = settings.server.socket
    try:
        path = control_socket(environ) if chosen == "auto" else Path(chosen)
    except ConfigError as error:
        return _finding("socket", "bad", str(error))
    return _place("socket", path)


def _place(name: str, path: Path) -> Finding:
    """Whether a socket can be made there."""
    folder = _nearest(path.parent)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        why = "may not be written by this user" if folder.is_dir() else "is no directory"
        return _finding(
            name, "bad", f"{path}: {folder} {why}", "Set XDG_RUNTIME_DIR or server.socket to another place."
        )
    return _finding(name, "ok", f"{path} ({len(os.fsencode(path))} of {SOCKET_PATH_MAX - 1} bytes)")


def _listener(address: Tcp | Path, taken: list[object]) -> Finding:
    """Whether a listener beside the control socket can be had."""
    text = f"unix:{address}" if isinstance(address, Path) else f"{address.host}:{address.port}"
    if text in taken:
        return _finding("listener", "ok", f"{text}: voxd's own")
    if isinstance(address, Path):
        return _place("listener", address)
    try:
        for each in listeners((address,), ()):
            each.sock.close()
    except CannotStart as reason:
        return _finding("listener", "bad", str(reason), "Stop the program that has it, or choose another port.")
    return _finding("listener", "ok", f"{text} is free")


def _calls(settings: Settings) -> Finding:
    """Whether calls by WebRTC find what they need: aiortc, and a UDP port for each."""
    if find_spec("aiortc") is None:
        return _finding("calls", "bad", "webrtc.enabled, and aiortc is not here", how_to_install("webrtc"))
    low, high = settings.webrtc.ports
    free = sum(_is_free(port) for port in range(low, high + 1))
    text = f"{free} of {high - low + 1} UDP ports are free, {settings.webrtc.udp_ports}"
    if not free:
        return _finding("calls", "bad", text, "Each call takes one: name others in webrtc.udp_ports.")
    return _finding("calls", "ok", text)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _token(settings: Settings, environ: Mapping[str, str], *, over_tcp: bool) -> Finding:
    """The token of TCP listeners; a token file that others can read is reported even without a listener."""
    if over_tcp and not settings.server.token:
        return _finding("token", "warn", "none: whoever reaches a TCP listener may use it", "Set server.token: true.")
    chosen = settings.server.token_file
    try:
        path = token_path(environ) if chosen == "auto" else Path(chosen)
        if chosen == "auto" and (credential := credential_path(environ)):
            return _finding("token", "ok", f"{credential}, from systemd")
        if not os.path.lexists(path):
            return _finding("token", "ok" if over_tcp else "skipped", f"{path} will be made when it is needed")
        load_token(path)
    except (ConfigError, TokenError) as error:
        how = "Or remove it: a new one is made; or name another file: server.token_file."
        return _finding("token", "bad" if over_tcp else "warn", str(error), how)
    return _finding("token", "ok", f"{path}, for its owner only")


def _tls(cert: str, key: str) -> Finding:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as error:  # SSLError is one
        said = error.strerror or str(error)
        return _finding("TLS", "bad", f"{cert}, {key}: {said}", "Both in PEM, readable, and made for each other.")
    return _finding("TLS", "ok", cert)
