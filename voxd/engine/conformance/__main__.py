"""`python -m voxd.engine.conformance NAME`: one line per check.  Not in the packet's path.

The exit status is 0 if every promise is kept, else 1.  It knows how to find an installed engine and print verdicts; the
checks are the package's.
"""

from __future__ import annotations

import os
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import click
import yaml

from shared.environment import begin
from shared.terminal import say
from voxd.engine.conformance import Conformance
from voxd.engine.contract import Engine, Unusable
from voxd.engine.registry import engine_class

_Raised = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class _Verdict(unittest.TestResult):
    """What became of one check, in a word and a reason."""

    word, reason = "ok", ""

    def addFailure(self, test: unittest.TestCase, err: _Raised) -> None:  # noqa: N802  (unittest's name)
        self.word, self.reason = "BROKEN", str(err[1])

    def addError(self, test: unittest.TestCase, err: _Raised) -> None:  # noqa: N802
        if isinstance(err[1], Unusable):
            raise err[1]
        self.word, self.reason = "BROKEN", f"raised {type(err[1]).__name__}: {err[1]}"

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self.word, self.reason = "skipped", reason


def check(suite: Conformance, say: Callable[[str], None]) -> int:
    """Runs all checks; the number of those that failed."""
    broken = 0
    for name in [name for name in vars(Conformance) if name.startswith("test_")]:
        verdict = _Verdict()
        unittest.FunctionTestCase(getattr(suite, name)).run(verdict)
        broken += verdict.word == "BROKEN"
        title = name.removeprefix("test_").replace("_", " ")
        say(f"{verdict.word:<9}{title}" + (f": {verdict.reason}" if verdict.reason else ""))
    return broken


def _options(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, object]:
    """KEY=VALUE each, the value as YAML reads it."""
    options: dict[str, object] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{each!r} is not KEY=VALUE")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise click.BadParameter(f"the value of {each!r} is not YAML; put quotes around it") from None
    return options


@click.command()
@click.argument("name")
@click.option(
    "--option",
    "options",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_options,
    help="As engine_options.NAME in config.yaml; may be repeated.",
)
@click.option("--clip", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Real speech of 2 to 10 s.")
def main(name: str, options: dict[str, object], clip: Path | None) -> None:
    """Check whether the installed engine NAME keeps what voxd.engine.contract asks of an engine."""
    begin(os.environ)

    class Suite(Conformance):
        def make_engine(self, wake: Callable[[], None]) -> Engine:
            return engine_class(name)(options, wake)

    Suite.clip = clip
    try:
        broken = check(Suite(), say)
    except (Unusable, ValueError) as reason:
        say(f"{name}: {reason}", err=True)
        sys.exit(1)
    finally:
        Suite.teardown_class()
    say(f"{name}: {f'{broken} checks failed' if broken else 'every promise is kept'}")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
