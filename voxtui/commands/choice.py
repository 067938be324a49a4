"""Which command a command line means, so that a mistyped word is not taken for a host; and whether there can be a
screen.

Not in the path.  It knows words, TERM and standard streams; not what a command does.
"""

from __future__ import annotations

import curses
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from shared.program import Program, likely

# Terminals whose entry may be missing on another machine, and that understand what xterm does.
FAMILIES = ("xterm", "screen", "tmux", "rxvt", "alacritty", "foot", "kitty", "wezterm", "ghostty", "konsole", "linux")


class Commands(Program):
    """The command group, in which `voxtui` and `voxtui TARGET` mean `voxtui connect`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if not args and ctx.resilient_parsing:  # a shell that completes the first word: commands are offered
            return super().parse_args(ctx, args)
        if not args or (args[0] not in self.commands and args[0] not in own):
            if args:
                self._look_at(args[0], ctx)
            args = ["connect", *args]
        return super().parse_args(ctx, args)

    def _look_at(self, word: str, ctx: click.Context) -> None:
        """Refuses a word that is a mistyped command or a sound file, rather than taking it for a host."""
        if word.isalpha() and (meant := likely(word, list(self.commands))):
            told = f"No such command {word!r}. Did you mean {meant!r}? (A host of that name: voxtui connect {word})"
            raise click.UsageError(told, ctx)
        if not word.startswith("-") and Path(word).is_file():
            ways = f"`voxtui transcribe {word}` or `voxtui connect --file {word}`"
            raise click.UsageError(f"{word!r} is a file, and a target is wanted: {ways}.", ctx)


def why_plain(environ: Mapping[str, str]) -> str | None:
    """Why there can be no screen here, in half a sentence; None if there can."""
    for name, stream in (("input", sys.stdin), ("output", sys.stdout)):
        if stream is None or stream.closed or not stream.isatty():
            return f"standard {name} is no terminal"
    kind = environ.get("TERM", "")
    if not kind:
        return "TERM is not set"
    try:
        curses.setupterm(kind, sys.stdout.fileno())
    except curses.error:
        return None if kind.startswith(FAMILIES) else f"no terminal is known by TERM={kind!a}"
    return None if curses.tigetstr("cup") else f"the cursor of TERM={kind!a} cannot be moved"
