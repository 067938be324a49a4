"""Which command a command line means: `connect` where none is named, and never a slip of the finger for a host.

It knows words; not what a command does.
"""

from __future__ import annotations

from pathlib import Path

import click

from shared.program import Program, likely


class Commands(Program):
    """`voxtui` and `voxtui TARGET` mean `voxtui connect`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if not args or (args[0] not in self.commands and args[0] not in own):
            if args:
                self._look_at(args[0], ctx)
            args = ["connect", *args]
        return super().parse_args(ctx, args)

    def _look_at(self, word: str, ctx: click.Context) -> None:
        """A slip of the finger is no host, and neither is a sound file."""
        if word.isalpha() and (meant := likely(word, list(self.commands))):
            told = f"No such command {word!r}. Did you mean {meant!r}? (A host of that name: voxtui connect {word})"
            raise click.UsageError(told, ctx)
        if not word.startswith("-") and Path(word).is_file():
            ways = f"`voxtui transcribe {word}` or `voxtui connect --file {word}`"
            raise click.UsageError(f"{word!r} is a file, and a target is wanted: {ways}.", ctx)
