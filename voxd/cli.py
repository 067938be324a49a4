"""The command line of the daemon: start, status, stop, token, tunnel; the others are in `voxd.commands`.

Not in the path.  It turns options and settings into a `DaemonPlan`, and everything that can go wrong into one sentence
and an exit status.  It imports nothing heavy before a command needs it, and does not know how anything is served.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from shared import __version__
from shared.program import Failure, Program
from shared.terminal import say
from voxd.commands import models, service

if TYPE_CHECKING:
    import socket

    from shared.settings import Settings, Tcp
    from voxd.app import DaemonPlan
    from voxd.system.systemd import Supervisor

FAILED, NOT_RUNNING, CONFIGURATION = 1, 3, 78

EXIT = """\b
Exit status:
  0   done, or voxd is already running
  1   failed: a socket cannot be had, the engine process keeps ending
  2   wrong use of the command line
  3   no voxd is running (status, stop, tunnel)
  78  configuration: the message says file:line:column and what is allowed
"""


def _die(message: str, status: int) -> NoReturn:
    raise Failure(message, status)


@click.group(
    "voxd", cls=Program, epilog=EXIT, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="voxd")
def main() -> None:
    """Speech recognition and conversation, served to terminals: the daemon."""


config_option = service.config_option
socket_option = click.option("--socket", "socket_path", help="Control socket (else server.socket).")


# ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@main.command()
@config_option
@socket_option
@click.option("--listen", multiple=True, metavar="ADDRESS", help="Also listen on HOST:PORT or unix:/path; repeatable.")
@click.option("--transcribe", metavar="ENGINE", help="Engine for live text (auto, none, or a name of `voxd engines`).")
@click.option("--respond", metavar="ENGINE", help="Engine for answers (auto, none, or a name of `voxd engines`).")
@click.option("--no-token", is_flag=True, help="Let anybody who reaches a TCP listener in.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain (PEM) for TCP listeners.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key (PEM).")
@click.option("--allow-origin", multiple=True, metavar="ORIGIN", help="Let pages of this origin in; repeatable.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Answer to this host name; repeatable.")
@click.option("--strict-models", is_flag=True, help="Refuse unknown model names.")
@click.option("--strict-modalities", is_flag=True, help="Refuse requests for spoken answers.")
@click.option("--check", is_flag=True, help="Check the settings and exit.")
def start(config_path: Path | None, socket_path: str | None, check: bool, **options: Any) -> None:
    """Serve, in the foreground, until Ctrl-C or SIGTERM.  SIGHUP: read the settings again."""
    settings, source = _settings(config_path)
    settings = _overridden(settings, **options)
    from voxd.commands.control import elsewhere
    from voxd.system import systemd as sd

    systemd, given = sd.Supervisor.take(os.environ), sd.inherited(os.environ)
    plan = _plan(settings, _control(settings, socket_path), given, token=settings.server.token and not check)
    if check:
        _try_engines(plan)
        say(f"{source or 'no settings file: defaults'}: valid")
        return
    if (
        not given
        and socket_path is None
        and settings.server.socket == "auto"
        and (there := elsewhere(plan.control, os.environ))
    ):
        say(f"voxd: voxd is already running at {there}; another beside it takes --socket PATH")
        return
    _serve(plan, source, systemd, lambda: _read_again(config_path, socket_path, options))


def _overridden(
    settings: Settings,
    *,
    transcribe: str | None,
    respond: str | None,
    listen: tuple[str, ...],
    allow_origin: tuple[str, ...],
    allow_host: tuple[str, ...],
    no_token: bool,
    strict_models: bool,
    strict_modalities: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> Settings:
    """The settings with the options of the command line over them."""
    from msgspec.structs import replace

    engines = settings.engines
    server = settings.server
    cert, key = tls_cert or server.tls_cert, tls_key or server.tls_key
    if bool(cert) != bool(key):
        _die("TLS takes both a certificate (--tls-cert) and its key (--tls-key)", CONFIGURATION)
    for path in (cert, key):
        if path and not os.access(path, os.R_OK):
            _die(f"{path}: cannot be read (TLS certificate or key)", CONFIGURATION)
    return replace(
        settings,
        engines=replace(engines, transcribe=transcribe or engines.transcribe, respond=respond or engines.respond),
        server=replace(
            server,
            listen=(*server.listen, *listen),
            allow_origin=(*server.allow_origin, *allow_origin),
            allow_host=(*server.allow_host, *allow_host),
            token=server.token and not no_token,
            strict_models=server.strict_models or strict_models,
            strict_modalities=server.strict_modalities or strict_modalities,
            tls_cert=str(cert) if cert else None,
            tls_key=str(key) if key else None,
        ),
    )


def _read_again(config_path: Path | None, socket_path: str | None, options: dict[str, Any]) -> Settings:
    """The settings as `start` reads and checks them, for a reload.  Raises ConfigError."""
    from shared.config import ConfigError

    try:
        settings = _overridden(_settings(config_path)[0], **options)
        _plan(settings, _control(settings, socket_path), (), token=False)
    except click.ClickException as failure:
        raise ConfigError(failure.message) from None
    return settings


def _serve(plan: DaemonPlan, source: Path | None, systemd: Supervisor, read_again: Callable[[], Settings]) -> None:
    import logging

    from voxd import app
    from voxd.system import fair_loop
    from voxd.telemetry import log as journal

    journal.configure(plan.settings.log.level)
    log = logging.getLogger("voxd")
    more = journal.fields("daemon.start", version=__version__)
    log.info("voxd %s · settings: %s", __version__, source or "defaults", extra=more)
    for note in plan.notes:
        log.info("%s", note)
    try:
        fair_loop.run(app.run(plan, systemd, read_again))
    except app.AlreadyRunning as running:
        say(f"voxd: {running}")
    except app.CannotStart as reason:
        _die(str(reason), FAILED)
    except app.EngineFailed as reason:
        _die(str(reason), CONFIGURATION if reason.configuration else FAILED)


def _settings(path: Path | None) -> tuple[Settings, Path | None]:
    from shared.config import ConfigError, load

    try:
        loaded = load(path, os.environ)
    except ConfigError as error:
        _die(str(error), CONFIGURATION)
    for warning in loaded.warnings:
        say(f"voxd: {warning}", err=True)
    return loaded.settings, loaded.source


def _control(settings: Settings | None, given: str | None) -> Path:
    from shared.config import ConfigError, control_socket
    from shared.settings import socket_path

    try:
        if given:
            return socket_path(Path(given).absolute())
        if settings is not None and settings.server.socket != "auto":
            return socket_path(Path(settings.server.socket))
        return control_socket(os.environ)
    except (ConfigError, ValueError) as error:
        _die(str(error), CONFIGURATION)


def _listener(text: str) -> Tcp | Path:
    from shared.settings import listener

    try:
        return listener(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--listen") from None


def _plan(settings: Settings, control: Path, given: tuple[socket.socket, ...], *, token: bool) -> DaemonPlan:
    from shared.extras import SERVER, lack

    if missing := lack(SERVER, "server"):
        _die(f"the daemon {missing}", CONFIGURATION)
    from shared.settings import Tcp
    from voxd.app import CannotStart, DaemonPlan
    from voxd.system.addresses import unencrypted
    from voxd.system.sockets import handed_over

    try:
        kept = handed_over(given)
    except CannotStart as reason:
        _die(str(reason), CONFIGURATION)
    listen = tuple(map(_listener, settings.server.listen))
    transcriber, responder, notes = _resolve(settings)
    over_tcp = any(isinstance(address, Tcp) for address in (*listen, *(each.address for each in kept)))
    secret = _token(settings).encode() if token and over_tcp else None
    if over_tcp and secret is None:
        notes = (*notes, "no token: whoever reaches a TCP listener may use it, and any page on a loopback port too")
    if not settings.server.tls_cert:
        notes = (*notes, *unencrypted((*listen, *(each.address for each in kept))))
    return DaemonPlan(settings, control, listen, transcriber, responder, secret, notes, kept)


def _resolve(settings: Settings) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The transcriber and the responder that are meant, and notes that say what `auto` chose."""
    from voxd.engine import auto

    engines, options = settings.engines, settings.engine_options
    writes = auto.transcriber(engines.transcribe, options, os.environ)
    answers = auto.responder(engines.respond, writes.name is not None, options, os.environ)
    for name in (writes.name, answers.name):
        _check_engine(name)
    told = (("transcribe", writes.why), ("respond", answers.why))
    return writes.name, answers.name, tuple(f"{role}: {why}" for role, why in told if why)


def _check_engine(name: str | None) -> None:
    from voxd.engine.registry import names

    if name is not None and name not in names():
        known = ", ".join((*names(), "none"))
        _die(f"no engine is called '{name}'; there are: {known} (see `voxd engines`)", CONFIGURATION)


def _try_engines(plan: DaemonPlan) -> None:
    """Makes the engines as the engine process would, without loading; ends the command if one cannot be used."""
    from voxd.engine.contract import Unusable
    from voxd.engine.registry import make

    try:
        make({"transcribe": plan.transcribe, "respond": plan.respond}, plan.settings.engine_options, lambda: None)
    except Unusable as reason:
        _die(str(reason), CONFIGURATION)


# ── status, stop ────────────────────────────────────────────────────────────────────────────────────────────────────


def _client_settings(path: Path | None) -> Settings:
    """The settings by which a daemon is found; a line says if the usual file is wrong, and defaults are used."""
    from shared.settings import Settings

    try:
        return _settings(path)[0]
    except Failure as failure:
        if path is not None:
            raise
        failure.show()
        return Settings()


def _client_socket(config_path: Path | None, given: str | None) -> Path:
    return _control(None, given) if given else _socket_of(_client_settings(config_path), None)


def _socket_of(settings: Settings, given: str | None) -> Path:
    from shared.config import SYSTEM_SOCKET, client_socket

    if given or settings.server.socket != "auto":
        return _control(settings, given)
    found = client_socket(os.environ)
    return SYSTEM_SOCKET if not os.path.exists(found) and _is_barred(SYSTEM_SOCKET) else found


def _is_barred(path: Path) -> bool:
    """Whether it lies in a folder that this user may not look into."""
    try:
        path.stat()
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


def _ask(path: Path) -> dict[str, object]:
    from voxd.commands.control import Busy, NotRunning, status

    try:
        return status(path)
    except Busy as reason:
        _die(f"{reason}: it is busy or stuck; try again, and see its log (`voxd logs`)", FAILED)
    except NotRunning:
        _die(f"not running (nobody answers at {path}); start it with `voxd start`", NOT_RUNNING)
    except PermissionError:
        _die(f"{path} belongs to another user; are you in the group `voxd`?", FAILED)


@main.command()
@config_option
@socket_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(config_path: Path | None, socket_path: str | None, as_json: bool) -> None:
    """Show the state of the running voxd: engines, sessions, listeners."""
    try:
        found = _ask(_client_socket(config_path, socket_path))
    except Failure as failure:
        if as_json:
            state = "not_running" if failure.exit_code == NOT_RUNNING else "unknown"
            say(json.dumps({"state": state, "error": failure.message}, indent=1))
        raise
    if as_json:
        say(json.dumps(found, indent=1))
        return
    engines = found["engines"] if isinstance(found["engines"], dict) else {}
    say(f"voxd {found['version']} · {found['state']} · pid {found['pid']} · up {found['uptime_s']} s")
    for role, name in engines.items():
        say(f"  {role:<11}{name or 'none'}")
    calls = f" · {found['calls']} by WebRTC" if found.get("calls") else ""
    say(f"  {'sessions':<11}{found['sessions']} of {found['max_sessions']}{calls} · lag {found['lag_ms']} ms")
    listen = found["listen"] if isinstance(found["listen"], list) else []
    for address in (f"unix:{found['socket']}", *listen):
        say(f"  {'listening':<11}{address}")
    if found["state"] != "ready":
        say(f"  {'progress':<11}{found['progress']}")
    for note in found["notes"] if isinstance(found["notes"], list) else []:
        say(f"  {'note':<11}{note}")


@main.command()
@config_option
@socket_option
def stop(config_path: Path | None, socket_path: str | None) -> None:
    """Stop the running voxd; turns in flight may end first."""
    from shared.config import SYSTEM_SOCKET
    from voxd.commands.control import ended

    settings = _client_settings(config_path)
    path = _socket_of(settings, socket_path)
    found = _ask(path)
    if found.get("activated"):
        command = "sudo systemctl" if path == SYSTEM_SOCKET else "systemctl --user"
        _die(f"it is a service, and its socket would start it again: {command} stop voxd.socket voxd.service", FAILED)
    pid = found["pid"]
    if not isinstance(pid, int):
        _die("the running voxd does not say its process id", FAILED)
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        _die(f"voxd (pid {pid}) runs as another user; under systemd: sudo systemctl stop voxd", FAILED)
    if not ended(pid, settings.server.drain_s + 10):
        _die(f"voxd (pid {pid}) has not stopped yet", FAILED)
    say("stopped")


# ── token ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@main.command()
@config_option
@socket_option
@click.option("--url", is_flag=True, help="As a URL for the browser, of the voxd that runs.")
def token(config_path: Path | None, socket_path: str | None, url: bool) -> None:
    """Print the bearer token of the TCP listeners (made if there is none)."""
    from shared import config
    from voxd.system.addresses import page_url

    settings, _ = _settings(config_path)
    secret = _token(settings)
    own = settings.server.token_file == "auto" and not os.access(config.SYSTEM_CREDENTIAL, os.R_OK)
    if own and config.SYSTEM_CREDENTIAL.parent.exists():
        say("voxd: this is the token of your own voxd; that of the machine's service: sudo voxd token", err=True)
    if not url:
        say(secret)
        return
    page = page_url(_ask(_client_socket(config_path, socket_path)))
    if page is None:
        _die("the voxd that runs listens on no TCP port: `voxd start --listen localhost:8000`", FAILED)
    say(f"{page}#token={secret}")


def _token(settings: Settings) -> str:
    from shared.config import ConfigError, credential_path, token_path
    from voxd.system.token_file import TokenError, load_credential, load_or_make

    try:
        chosen = settings.server.token_file
        if chosen == "auto" and (credential := credential_path(os.environ)):
            return load_credential(credential)
        return load_or_make(token_path(os.environ) if chosen == "auto" else Path(chosen))
    except (ConfigError, TokenError) as error:
        _die(str(error), CONFIGURATION)


# ── tunnel ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@main.command()
@config_option
@socket_option
@click.option("--link", metavar="DIRECTORY", help="Make it meanwhile, with a link in it to the daemon's socket.")
@click.option("--stdio", is_flag=True, help="Carry one connection over standard input and output.")
def tunnel(config_path: Path | None, socket_path: str | None, link: str | None, stdio: bool) -> None:
    """The far end of an SSH tunnel; voxtui starts it.

    Until standard input is closed it says, in lines of JSON, where the running voxd is and in which state.
    """
    from voxd.commands import tunnel

    if link is not None and stdio:
        raise click.UsageError("--link and --stdio exclude each other")
    if os.isatty(tunnel.STDIN):
        say("voxd: this is for `voxtui connect HOST`, which starts it through ssh; Ctrl-D ends it", err=True)
    try:
        trouble = tunnel.run(_client_socket(config_path, socket_path), link, stdio=stdio)
        status = NOT_RUNNING if trouble and trouble.code == "not_running" else FAILED
    except Failure as failure:
        trouble, status = tunnel.failed(failure.message), failure.exit_code
    if trouble:
        with contextlib.suppress(ConnectionError):
            tunnel.write(trouble)
        sys.exit(status)


# ── models, units ─────────────────────────────────────────────────────────────────────────────────────────────────────

for command in (*models.COMMANDS, *service.COMMANDS):
    main.add_command(command)
