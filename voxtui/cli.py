"""The commands of voxtui.  Each loads what it needs and nothing more: --help touches no screen and no sound.

It knows options, exit codes and which command does what; how anything is done lies below.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import shared

if TYPE_CHECKING:
    from voxtui.client import Wishes
    from voxtui.sources import Source
    from voxtui.target import Target

FAILED, USAGE, UNREACHABLE, REFUSED = 1, 2, 69, 77
EPILOG = """\b
TARGET is where voxd is:
  (nothing)          this machine: its control socket
  unix:/path         a UNIX socket
  HOST:PORT          a TCP port
  ws://… https://…   a URL; without a path it means /v1/realtime

A token is read from VOXD_TOKEN or --token-file.

\b
Exit codes: 0 ok · 1 failed · 2 usage · 69 no voxd reachable · 77 refused (token)"""


class Commands(click.Group):
    """`voxtui` and `voxtui TARGET` mean `voxtui connect`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if not args or (args[0] not in self.commands and args[0] not in own):
            args = ["connect", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(shared.__version__, prog_name="voxtui")
def main() -> None:
    """Speak, and read along: the terminal client of voxd."""


_token_file = click.option(
    "--token-file", type=click.Path(dir_okay=False, path_type=Path), help="A file that holds the bearer token."
)
_language = click.option(
    "--language", metavar="CODE", help="Language of the speech, such as en; else the engine decides."
)


@main.command(epilog=EPILOG, short_help="Talk to a voxd (the default command).")
@click.argument("target", required=False)
@click.option(
    "--plain", is_flag=True, help="Text to standard output, the rest to standard error; for pipes and readers."
)
@click.option("--file", type=click.Path(path_type=Path), help="Play this sound file instead of the microphone.")
@click.option("--device", metavar="NAME|NUMBER", help="Which microphone; `voxtui devices` lists them.")
@_language
@click.option(
    "--silence-ms",
    type=click.IntRange(160, 10_000),
    default=500,
    show_default=True,
    help="A pause this long ends a turn.",
)
@_token_file
def connect(
    target: str | None,
    plain: bool,
    file: Path | None,
    device: str | None,
    language: str | None,
    silence_ms: int,
    token_file: Path | None,
) -> None:
    """Talk to a voxd: the screen, or plain text with --plain (and where standard output is no terminal)."""
    if file is not None and device is not None:
        raise click.UsageError("--file and --device exclude each other.")
    address, token = _address(target, token_file)
    from voxtui.client import Wishes

    wishes = Wishes(language=language, silence_ms=silence_ms)
    if plain or not sys.stdout.isatty():
        _finish(_plain(address, token, wishes, file, device))
    from voxtui.app import VoxtuiApp

    app = VoxtuiApp(address, token=token, wishes=wishes, open_source=lambda: _source(file, device))
    app.run()
    sys.exit(app.return_code)


@main.command(epilog=EPILOG, short_help="Write down what is said in sound files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--target", help="Which voxd; without one: this machine's, else a private one for this command.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "srt"]),
    default="text",
    show_default=True,
    help="One line per utterance; one JSON object per file; subtitles.",
)
@_language
@_token_file
def transcribe(
    files: tuple[Path, ...], target: str | None, form: str, language: str | None, token_file: Path | None
) -> None:
    """Write down what is said in sound files (wav, flac, mp3, ogg), as fast as it goes."""
    if form == "srt" and len(files) > 1:
        raise click.UsageError("Subtitles belong to one file: give one FILE with --format srt.")
    address, token = _address(target, token_file)
    _finish(_transcribe(address, token, files, form, language, private=target is None))


@main.command()
def devices() -> None:
    """List the microphones."""
    from voxtui.devices import device_list
    from voxtui.sources import SourceError

    try:
        click.echo(device_list())
    except SourceError as error:
        _fail(str(error), FAILED)


@main.command(short_help="Play a clip through a private voxd; how fast is it?")
def demo() -> None:
    """Play a short clip through a private voxd on this machine: words as they come, then how fast they came."""
    from voxtui.demo import demo as play

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    _finish(play(width))


# ── what the commands share ─────────────────────────────────────────────────────────────────────────────────────────


def _address(target: str | None, token_file: Path | None) -> tuple[Target, str | None]:
    """Where voxd is, and the token for it."""
    from voxtui.target import TargetError, local_target, parse_target, read_token

    try:
        address = local_target(os.environ) if target is None else parse_target(target)
        return address, read_token(os.environ, token_file)
    except TargetError as error:
        _fail(str(error), USAGE)


def _source(file: Path | None, device: str | None) -> Source:
    """The clip, or the microphone.  Raises SourceError."""
    if file is not None:
        from voxtui.sources import FileSource, read_clip

        return FileSource(file.name, read_clip(file))
    from voxtui.microphone import Microphone

    return Microphone(int(device) if device is not None and device.isdecimal() else device)


async def _plain(address: Target, token: str | None, wishes: Wishes, file: Path | None, device: str | None) -> bool:
    from voxtui.client import RealtimeClient
    from voxtui.plain import run_plain

    source = _source(file, device)
    async with RealtimeClient.connect(address, token=token, wishes=wishes) as client:
        await run_plain(client, source)
    return True


async def _transcribe(
    address: Target, token: str | None, files: tuple[Path, ...], form: str, language: str | None, *, private: bool
) -> bool:
    from voxtui.local import answers, private_voxd
    from voxtui.transcribe import transcribe_files

    async with contextlib.AsyncExitStack() as stack:
        if private and not await answers(address):
            address = await stack.enter_async_context(private_voxd(_note))
        return await transcribe_files(address, files, form=form, language=language, token=token)


def _note(line: str) -> None:
    click.echo(line, err=True)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"voxtui: {message}", err=True)
    sys.exit(code)


def _finish(work: Coroutine[Any, Any, bool]) -> NoReturn:
    """Runs the work of a command and ends the program with its exit code.

    SIGTERM and SIGHUP cancel it as Ctrl-C does, so that a private voxd never outlives it."""
    from voxtui.client import ClientError, Refused, Unreachable
    from voxtui.local import LocalError
    from voxtui.sources import SourceError

    try:
        good = asyncio.run(_cancellable(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    except Refused as error:
        _fail(str(error), REFUSED)
    except Unreachable as error:
        _fail(str(error), UNREACHABLE)
    except (ClientError, LocalError, SourceError) as error:
        _fail(str(error), FAILED)
    sys.exit(0 if good else FAILED)


async def _cancellable(work: Coroutine[Any, Any, bool]) -> bool:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work
