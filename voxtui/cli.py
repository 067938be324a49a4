"""The commands of voxtui.  Each loads what it needs and nothing more: --help touches no screen and no sound.

Not in the path.  It knows options, exit codes and which command does what; not how anything is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import shared
from shared.languages import language_of
from shared.program import Failure, OutputFile, hang_up, written
from shared.terminal import draw, note, say
from voxtui.commands.choice import Commands

if TYPE_CHECKING:
    from voxtui.bench.goals import Goal
    from voxtui.bench.plan import BenchPlan
    from voxtui.link.target import Target
    from voxtui.settings import Settings

FAILED, USAGE, UNREACHABLE, REFUSED = 1, 2, 69, 77
EPILOG = """\b
TARGET is where voxd is:
  (nothing)          this machine: its control socket
  unix:/path         a UNIX socket
  HOST:PORT          a TCP port
  ws://… https://…   a URL; without a path it means /v1/realtime
  [user@]host        a machine that ssh reaches, by a tunnel of its own
                     (with another port: ssh://[user@]host:port)

A token is read from VOXD_TOKEN or --token-file.

\b
Exit codes: 0 ok · 1 failed · 2 usage · 69 no voxd reachable · 77 refused (token)"""


@click.group("voxtui", cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(shared.__version__, prog_name="voxtui")
def main() -> None:
    """Speak, and read along: the terminal client of voxd."""


_token_file = click.option(
    "--token-file", type=click.Path(dir_okay=False, path_type=Path), help="A file that holds the bearer token."
)
_no_proxy = click.option(
    "--no-proxy", is_flag=True, help="Past the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names."
)


def _named_language(_ctx: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Refuses a language that nobody knows, before anything is sent."""
    try:
        return text if text is None else language_of(text) or ""
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_SPOKEN = "Language of the speech, such as en, or its name; auto: the engine decides."
_language = click.option("--language", metavar="CODE", callback=_named_language, help=_SPOKEN)


@main.command(epilog=EPILOG, short_help="Talk to a voxd (the default command).")
@click.argument("target", required=False)
@click.option(
    "--plain", is_flag=True, help="Text to standard output, the rest to standard error; for pipes and screen readers."
)
@click.option("--file", type=click.Path(path_type=Path), help="Play this sound file instead of the microphone.")
@click.option("--device", metavar="NAME|NUMBER", help="Which microphone; `voxtui devices` lists them.")
@_language
@click.option("--instructions", metavar="TEXT", help="What the model is told to be, where it answers.")
@click.option("--silence-ms", type=click.IntRange(160, 10_000), help="A pause this long ends a turn.  [default: 500]")
@click.option(
    "--delay-ms", type=click.IntRange(80, 2400), metavar="MS", help="Live text may trail by so much: multiples of 80."
)
@click.option("--hands-free/--push-to-talk", default=None, help="Whether pauses end a turn, or the space key does.")
@click.option("--theme", type=click.Choice(["dark", "light"]), help="[default: dark]")
@click.option("--keep/--no-keep", default=None, help="Keep the transcript in a file.  [default: keep]")
@click.option(
    "--transport",
    type=click.Choice(["ws", "webrtc", "auto"]),
    help="How sound travels: WebSocket, WebRTC (UDP; the extra `webrtc`), or whichever is better.  [default: ws]",
)
@_no_proxy
@_token_file
def connect(
    target: str | None, plain: bool, file: Path | None, token_file: Path | None, no_proxy: bool, **given: Any
) -> None:
    """Talk to a voxd: the screen, or plain text with --plain (and where standard output is no terminal).

    Options may also stand in a file, such as `silence_ms: 700`: ~/.config/voxtui/config.yaml, on macOS
    ~/Library/Application Support/voxtui/config.yaml."""
    if file is not None and given["device"] is not None:
        raise click.UsageError("--file and --device exclude each other.")
    from voxtui.commands.choice import why_plain

    if not plain and (reason := why_plain(os.environ)) is not None:
        plain = True
        if sys.stdout.isatty():
            note(f"voxtui: plain text, for {reason}")
    if not plain and str(file) == "-":
        raise click.UsageError("--file - reads standard input, which is the keyboard of the screen: add --plain.")
    if plain and given["hands_free"] is False:
        raise click.UsageError("--push-to-talk needs the screen: plain text has no keys.")
    settings = _settings(given)
    address, token = _address(target or settings.target, token_file, no_proxy)
    readable = file is None or str(file) == "-" or file.exists()  # else that is told, and nothing is started for it
    private = target is None and settings.target is None and readable and _may_start(address)
    from voxtui.commands.local import at
    from voxtui.link.client import Wishes
    from voxtui.screen.command import chosen_source, show

    wishes = Wishes(
        settings.language,
        settings.instructions,
        settings.silence_ms,
        settings.delay_ms,
        hands_free=settings.hands_free or file is not None,
        transport=settings.transport,
    )
    if plain:
        from voxtui.commands.plain import talk

        hands_free, device = replace(wishes, hands_free=True), settings.device

        def work(where: Target) -> Coroutine[Any, Any, bool]:
            return talk(where, token, hands_free, lambda: chosen_source(file, device), live=file is None)

        _finish(at(address, note, work, private=private))
    _finish(at(address, note, lambda where: show(where, token, wishes, file, settings), private=private))


@main.command(epilog=EPILOG, short_help="Write down what is said in sound files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE|FOLDER...", type=click.Path(path_type=Path))
@click.option("--target", help="Which voxd; without one: this machine's, else a private one for this command.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["txt", "json", "srt", "vtt", "tsv"]),
    default="txt",
    show_default=True,
    help="One line per utterance; one JSON object per file; subtitles; a table.",
)
@click.option("-o", "--output", metavar="FILE|FOLDER", help="Where transcripts go.  [default: standard output]")
@_language
@_no_proxy
@_token_file
def transcribe(
    files: tuple[Path, ...],
    target: str | None,
    form: str,
    output: str | None,
    language: str | None,
    token_file: Path | None,
    no_proxy: bool,
) -> None:
    """Write down what is said in sound and video files of any common kind, in folders of them, or - for standard input,
    as fast as it goes."""
    from voxtui.commands.transcribe import ALONE

    if form in ALONE and output is None and (len(files) > 1 or any(path.is_dir() for path in files)):
        raise click.UsageError(f"Only one file goes to standard output as {form}: give a folder with -o.")
    address, token = _address(target, token_file, no_proxy)
    work = partial(_transcribe, token=token, files=files, form=form, language=language, output=output)
    from voxtui.commands.local import here_or_private

    _finish(here_or_private(address, note, work) if target is None else work(address))


@main.command()
def devices() -> None:
    """List the microphones."""
    from voxtui.commands.devices import device_list
    from voxtui.errors import SourceError

    try:
        say(device_list())
    except SourceError as error:
        _fail(str(error), FAILED)


@main.command(short_help="Play a clip through a private voxd; how fast is it?")
def demo() -> None:
    """Play a short clip through a private voxd on this machine: words as they come, then how fast they came."""
    from voxtui.commands.demo import demo as play

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    _finish(play(width))


@main.command(epilog=EPILOG, short_help="Check everything between your mouth and the model.")
@click.argument("target", required=False)
@_no_proxy
@_token_file
def doctor(target: str | None, token_file: Path | None, no_proxy: bool) -> None:
    """Check microphone, ssh, tunnel, token, engine and round trips: each line is fine, or says what to do."""
    address, token = _address(target, token_file, no_proxy)
    from voxtui.doctor.command import doctor as examine

    _finish(examine(address, token, os.environ, draw, token_file=token_file))


@main.command(epilog=EPILOG, short_help="How fast is a voxd, and for how many at once?")
@click.argument("target", required=False)
@click.option(
    "--sessions", type=click.IntRange(1, 4096), help="At once.  [default: 1; at most 64 to find the capacity]"
)
@click.option("--turns", type=click.IntRange(1), default=10, show_default=True, help="Measured ones of each session.")
@click.option("--warmup", type=click.IntRange(0), default=1, show_default=True, help="Turns before them, not measured.")
@click.option(
    "--pause", type=click.FloatRange(1), default=2.5, show_default=True, help="Seconds of silence after each."
)
@click.option("--audio", type=click.Path(path_type=Path), help="A sound file or a folder of them.  [default: a clip]")
@click.option(
    "--mode",
    type=click.Choice(["transcribe", "converse"]),
    default="transcribe",
    show_default=True,
    help="Text of what is said, or answers to it.",
)
@click.option(
    "--profile",
    type=click.Choice(["constant", "ramp", "burst"]),
    default="constant",
    show_default=True,
    help="Phases spread evenly; one session after the other; all at the same instant.",
)
@click.option("--json", "json_file", type=OutputFile(), help="Everything, as JSON.")
@click.option("--assert", "goals", multiple=True, metavar="'final_ms.p95<900'", help="Exit 1 if not so; repeatable.")
@click.option("--compare", metavar="TARGET", help="The same with another voxd, side by side.")
@click.option("--transport", "transports", metavar="ws,ws+ssh,webrtc", help="One row for each of these ways.")
@click.option("--find-capacity", metavar="'final_ms.p95<800'", help="The most sessions with which this holds.")
@_no_proxy
@_token_file
def bench(
    target: str | None,
    audio: Path | None,
    json_file: Path | None,
    goals: tuple[str, ...],
    compare: str | None,
    transports: str | None,
    find_capacity: str | None,
    token_file: Path | None,
    no_proxy: bool,
    sessions: int | None,
    pause: float,
    **plan: Any,
) -> None:
    """Measure a voxd: clips are spoken to it in real time, on an absolute clock, whatever it answers (open loop)."""
    if find_capacity and (compare or goals):
        raise click.UsageError("--find-capacity goes with neither --compare nor --assert.")
    if transports and (compare or find_capacity):
        raise click.UsageError("--transport goes with neither --compare nor --find-capacity.")
    address, token = _address(target, token_file, no_proxy)
    other = _address(compare, token_file, no_proxy)[0] if compare else None
    from voxtui.bench.goals import Goal, GoalError
    from voxtui.bench.plan import BenchPlan

    try:
        wanted = [Goal.parse(text) for text in goals]
        capacity = Goal.parse(find_capacity) if find_capacity else None
    except GoalError as error:
        raise click.UsageError(str(error)) from None
    whole = BenchPlan(sessions=sessions or (64 if capacity else 1), pause_s=pause, **plan)
    ways = _ways(transports, address) if transports else {}
    _finish(_bench(whole, audio, wanted, json_file, (address, other), token, capacity, ways))


def _ways(text: str, target: Target) -> dict[str, Target]:
    """The URL at which each way of sound begins.  Through ssh it is the same machine, by the name that the target
    has."""
    from urllib.parse import urlsplit

    from voxtui.link.target import ssh_target

    names = text.split(",")
    if unknown := [name for name in names if name not in ("ws", "ws+ssh", "webrtc")]:
        raise click.UsageError(
            f"--transport takes ws, ws+ssh and webrtc, with commas between them; not {unknown[0]!a}."
        )
    if target.ssh is not None and names != ["ws+ssh"]:
        raise click.UsageError(f"{target.label} is reached by ws+ssh only; for the others give HOST:PORT.")
    host = "localhost" if target.socket is not None else urlsplit(target.url).hostname or "localhost"
    through = target if target.ssh is not None else ssh_target(host)
    return {name: through if name == "ws+ssh" else target for name in names}


def _settings(given: dict[str, Any]) -> Settings:
    """The settings of the person's own file, with what the command line says instead."""
    from msgspec import ValidationError, convert, to_builtins

    from shared.config import ConfigError
    from voxtui.settings import Settings, load

    try:
        wanted = to_builtins(load()) | {name: value for name, value in given.items() if value is not None}
        return convert(wanted, Settings)
    except ConfigError as error:
        _fail(str(error), USAGE)
    except ValidationError:
        raise click.UsageError("--delay-ms takes multiples of 80, such as 240 or 480.") from None


# ── what the commands share ─────────────────────────────────────────────────────────────────────────────────────────


def _address(target: str | None, token_file: Path | None, no_proxy: bool) -> tuple[Target, str | None]:
    """Where voxd is, the proxy in between if there is one, and the token."""
    from voxtui.link.target import TargetError, behind_proxy, local_target, parse_target, read_token

    try:
        address = local_target(os.environ) if target is None else parse_target(target)
        if not no_proxy:
            address = behind_proxy(address, os.environ)
        return address, read_token(os.environ, token_file)
    except TargetError as error:
        _fail(str(error), USAGE)


def _may_start(address: Target) -> bool:
    """May a private voxd be started, for nobody answers there?"""
    from voxtui.commands.local import may_start
    from voxtui.errors import Unreachable

    try:
        return may_start(address)
    except Unreachable as error:
        _fail(str(error), UNREACHABLE)


async def _transcribe(
    address: Target, *, token: str | None, files: tuple[Path, ...], form: str, language: str | None, output: str | None
) -> bool:
    from voxtui.commands.transcribe import transcribe_files
    from voxtui.link.route import opened

    async with opened(address, token) as route:
        return await transcribe_files(route, files, form=form, language=language, output=output)


async def _bench(
    plan: BenchPlan,
    audio: Path | None,
    goals: Sequence[Goal],
    json_file: Path | None,
    targets: tuple[Target, Target | None],
    token: str | None,
    capacity: Goal | None,
    ways: dict[str, Target],
) -> bool:
    from voxtui.bench.command import Bench, ProgressLine, Way
    from voxtui.capture.sources import CLIP
    from voxtui.link.route import opened

    progress = ProgressLine(lambda text: draw(text, nl=False, err=True), redraws=sys.stderr.isatty())
    bench = Bench(plan, audio or CLIP, progress, goals)
    first, second = targets
    async with contextlib.AsyncExitStack() as stack:
        routes = {each: await stack.enter_async_context(opened(each, token)) for each in {first, *ways.values()}}
        route = routes[first]
        if ways:
            chosen = [Way(name, routes[at], "webrtc" if name == "webrtc" else "ws") for name, at in ways.items()]
            outcome = await bench.across(chosen)
        elif capacity is not None:
            outcome = await bench.find_capacity(route, capacity)
        elif second is not None:
            outcome = await bench.compare(route, await stack.enter_async_context(opened(second, token)))
        else:
            outcome = await bench.run(route)
    say(outcome.text)
    if json_file is not None:
        await asyncio.to_thread(written, json_file, json.dumps(outcome.record, indent=1) + "\n")
    return outcome.passed


def _fail(message: str, code: int) -> NoReturn:
    raise Failure(message, code)


def _finish(work: Coroutine[Any, Any, bool]) -> NoReturn:
    """Runs the work of a command and ends the program with its exit code.

    SIGTERM and SIGHUP cancel it as Ctrl-C does, so that a private voxd never outlives it."""
    from voxtui.commands.local import LocalError
    from voxtui.errors import ClientError, SourceError, TokenRefused, Unreachable

    try:
        good = asyncio.run(_cancellable(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    except TokenRefused as error:
        _fail(str(error), REFUSED)
    except Unreachable as error:
        _fail(str(error), UNREACHABLE)
    except (ClientError, LocalError, SourceError) as error:
        _fail(str(error), FAILED)
    sys.exit(0 if good else FAILED)


async def _cancellable(work: Coroutine[Any, Any, bool]) -> bool:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, *hang_up()):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work
