"""The way from both programs to a terminal or a pipe.  Ruff knows no other: `click.echo` is banned elsewhere.

It does not know who reads; what stands in a text may come from anybody, and nothing of it acts on a terminal.
"""

from __future__ import annotations

import click

from shared.safe_text import safe_text


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Text, whoever it is from, of any length and any number of lines.  `err`: to standard error."""
    click.echo(safe_text(text, None), err=err, nl=nl)


def note(line: str) -> None:
    """For people, beside what a program's output is for."""
    say(line, err=True)


def draw(text: str, *, err: bool = False, nl: bool = True) -> None:
    """What may act: colours, and moves of the cursor.  Whoever calls it has made the words of others safe before."""
    click.echo(text, err=err, nl=nl)
