"""What the two command lines have in common: failing standard streams, output files, misspelt words.

Not in the packet's path.

`Program` is the one place where an error of the system becomes a sentence and an exit status, for every command.  It
knows streams and files; not what a command does.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import click

from shared.environment import begin
from shared.safe_text import safe_text
from shared.terminal import say

FAILED = 1
FETCHING = frozenset({"pull"})  # commands that get something from the hub
_STREAMS = ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY))  # 1: what is written to a closed one must fail
_REASONS = {
    errno.EPIPE: "standard output was closed by its reader before everything was written",
    errno.EBADF: "standard output is closed: there is nowhere to write to",
}


class Failure(click.ClickException):
    """Raised to end a command with one sentence for the user."""

    def __init__(self, message: str, status: int, program: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # a class variable in the stubs; click asks the instance
        context = click.get_current_context(silent=True)
        self._program = program or (context.find_root().command.name if context else None)

    def show(self, file: IO[Any] | None = None) -> None:
        say(f"{self._program}: {self.message}" if self._program else self.message, err=True)


class Program(click.Group):
    """The command group of one program."""

    def main(self, *args: Any, **extra: Any) -> Any:
        _mend_streams()
        return super().main(*args, **extra)

    def make_context(self, info_name: str | None, *args: Any, **extra: Any) -> click.Context:
        with _errors_told(self.name), _errors_safe():
            return super().make_context(info_name, *args, **extra)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        begin(os.environ, fetches=name in FETCHING)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        with _errors_told(self.name), _errors_safe():
            return super().invoke(ctx)


class OutputFile(click.Path):
    """The type of an option that names a file to write; it is checked before the work, which may take an hour."""

    name = "file"

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        folder = path.parent
        if not folder.is_dir():
            self.fail(f"there is no folder {str(folder)!r} to write {path.name!r} into.", param, ctx)
        if not os.access(path if path.exists() else folder, os.W_OK):
            self.fail(f"{str(path)!r} cannot be written by this user.", param, ctx)
        return path


def written(path: Path, text: str) -> None:
    """Writes text into a file.  If that fails, writes it to standard output instead, then raises Failure."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        say(text, nl=False)
        raise Failure(f"{path} cannot be written ({error.strerror}): it stands on standard output.", FAILED) from None


def hang_up() -> tuple[int, ...]:
    """SIGHUP, unless it is ignored on purpose, as `nohup` does."""
    return () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)


def likely(word: str, known: Sequence[str]) -> str | None:
    """The known word nearest to `word`, if it is near enough to be a misspelling."""
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.75)), None)


class _Output(io.FileIO):
    """Standard output that remembers its first error, and takes nothing after it."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int | None:  # type: ignore[override]  # None: it would block, as the class has it
        if self.error is not None:
            return memoryview(data).nbytes  # what a buffer still holds must not fail again at the exit
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


class _Lossy(io.FileIO):
    """Standard error whose failures are ignored: exit status and output do not depend on it."""

    def write(self, data: Any, /) -> int | None:  # type: ignore[override]  # None: it would block, as the class has it
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _mend_streams() -> None:
    """Opens missing standard streams: else the next socket would get the number of standard output."""
    for number, flags in _STREAMS:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Lossy(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, like: Any) -> io.TextIOWrapper:
    """`like`: the stream that Python has made of the same file, or None."""
    encoding, errors = (like.encoding, like.errors) if like is not None else ("utf-8", "backslashreplace")
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)


@contextlib.contextmanager
def _errors_safe() -> Iterator[None]:
    """Makes the errors harmless that Click shows itself, with file names and options in them."""
    try:
        yield
    except click.ClickException as error:
        error.message = safe_text(error.message, None)  # type: ignore[misc]  # final in the stubs, an attribute as any in fact
        raise


@contextlib.contextmanager
def _errors_told(program: str | None) -> Iterator[None]:
    """Turns an error of standard output or of a named file into one sentence.  Other errors are bugs and pass."""
    try:
        yield
        sys.stdout.flush()
    except (OSError, ExceptionGroup) as error:
        raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
        if isinstance(raw, _Output) and raw.error is not None:
            known = _REASONS.get(raw.error.errno or 0)
            text = known or f"standard output cannot be written: {raw.error.strerror}"
        elif isinstance(error, OSError) and error.filename is not None and error.strerror:
            text = f"{os.fsdecode(error.filename)}: {error.strerror}"
        else:
            raise
        raise Failure(f"{text}.", FAILED, program) from None
