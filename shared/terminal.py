"""The only way from both programs to a terminal or a pipe; lint bans `click.echo` elsewhere.  Step 12.

Texts may come from anybody, so control sequences in them are removed.  It does not know who reads.
"""

from __future__ import annotations

import click

from shared.safe_text import safe_text


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints text of any origin, with any number of lines.  `err`: to standard error."""
    click.echo(safe_text(text, None), err=err, nl=nl)


def note(line: str) -> None:
    """Prints a remark for people to standard error, beside the output of the program."""
    say(line, err=True)


def draw(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints control sequences (colours, moves of the cursor) as they are.  The caller has made all other text safe."""
    click.echo(text, err=err, nl=nl)
