"""docs/ec2.md: every command of ours with every option that it shows is one that there is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from shared import __version__
from tests.support.sdbox import ECHO, SETTINGS, booted
from voxd.cli import main as voxd
from voxtui.cli import main as voxtui

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ec2.md").read_text(encoding="utf-8")


def commands() -> Iterator[list[str]]:
    """Each call of voxd and voxtui in the blocks of shell as words, the program without its folder."""
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            for call in line.split("#")[0].split("&&"):
                words = shlex.split(call)
                while words and (words[0] in ("sudo", "env") or words[:2] == ["-u", "voxd"] or "=" in words[0]):
                    del words[: 2 if words[0] == "-u" else 1]
                if words and (program := words[0].rpartition("/")[2]) in ("voxd", "voxtui"):
                    yield [program, *words[1:]]


def test_there_are_commands_to_check() -> None:
    assert {tuple(call[:2]) for call in commands()} >= {
        ("voxd", "install"), ("voxd", "pull"), ("voxd", "verify"), ("voxd", "bench-engine"), ("voxd", "start"),
        ("voxtui", "connect"), ("voxtui", "doctor"), ("voxtui", "bench"),
    }  # fmt: skip


@pytest.mark.parametrize("call", commands(), ids=" ".join)
def test_a_command_is_understood(call: list[str]) -> None:
    """Each command is parsed and not run."""
    program: click.Group = {"voxd": voxd, "voxtui": voxtui}[call[0]]
    context = click.Context(program, info_name=call[0])
    name, command, rest = program.resolve_command(context, call[1:])
    assert command is not None
    command.make_context(name, rest, parent=context)


def test_it_installs_this_version() -> None:
    assert f"/opt/voxd/{__version__} " in PAGE


def installing() -> list[str]:
    """The commands of the chapter on installing."""
    block = re.search(r"^## Install, in six commands\n\n```sh\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert block is not None
    return block[1].splitlines()


def test_they_are_six() -> None:
    assert len(installing()) == 6


@pytest.mark.slow
@pytest.mark.root
def test_whoever_follows_the_page_has_a_place_for_the_weights_and_may_use_the_socket(tmp_path: Path) -> None:
    """From the third command on, as root, with the environment that the first two would have made.  Nothing is fetched:
    what `voxd pull` does first is tried."""
    with booted(tmp_path) as box:
        box.put(SETTINGS, ECHO)
        box.run("useradd", "ubuntu")
        for line in installing()[2:]:
            told = line.replace("sudo ln -s 0.1.0 /opt/voxd/current && ", "").replace(
                "voxd pull", "mkdir -p /var/cache/voxd/hf/hub"
            )
            told = told.replace("sudo -u voxd", "runuser -u voxd --").replace("sudo ", "")
            box.run("bash", "-c", f"USER=ubuntu; {told}")
        asked = box.run("runuser", "-u", "ubuntu", "--", "voxd", "status")

    assert "ready" in asked


def test_its_files_are_there() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
