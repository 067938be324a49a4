"""The README and the pages for users are true: pictures, commands, options, links, completion by the shell.

After a change of the screen: `VOXD_WRITE_PICTURE=1 pytest tests/project/test_readme.py`, and look at docs/*.svg.
"""

from __future__ import annotations

import asyncio
import os
import re
import tomllib
from html import unescape
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shared import __version__
from tests.support.scenes import Scene, answered, asked, conversed, opening, settle
from voxd.cli import main as voxd
from voxtui.cli import main as voxtui
from voxtui.events import Event, Painted
from voxtui.screen.widgets.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/USE.md", "docs/FAQ.md", "docs/PRIVACY.md")}
README, USE = PAGES["README.md"], PAGES["docs/USE.md"]
RECORDING = "docs/demo.svg"


def answering() -> list[Event]:
    """A conversation in which the engine was too slow twice."""
    return [*opening("mini"), Painted(15.0), *conversed(132.0), *asked(), *answered(engine=131.0, total=1702.0)]


PICTURES: dict[str, tuple[tuple[int, int], list[Event]]] = {
    "answers.svg": ((130, 34), answering()),
}


async def draw(size: tuple[int, int], events: list[Event]) -> str:
    scene = Scene(events)
    async with scene.run_test(size=size) as pilot:
        await settle(pilot)
        return scene.export_screenshot(title="voxtui")


def plain(svg: str) -> str:
    """A picture without the names that are made anew for each one."""
    return re.sub(r"terminal-\d+", "terminal", svg)


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_of_this_screen(name: str) -> None:
    path = ROOT / "docs" / name
    drawn = asyncio.run(draw(*PICTURES[name]))
    if os.environ.get("VOXD_WRITE_PICTURE"):
        path.write_text(drawn)

    assert f"docs/{name}" in README
    assert plain(drawn) == plain(path.read_text())


def test_the_recording_is_of_this_program() -> None:
    """It was made by the command that stands under it, and the keys that it shows are keys of this screen."""
    drawn = (ROOT / RECORDING).read_text(encoding="utf-8")
    about = unescape(re.findall(r"<desc>(.*?)</desc>", drawn)[0])
    shown = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn))

    assert f"]({RECORDING})" in README
    assert f"`python -m benchmarks.record {RECORDING}`" in README
    assert "python -m benchmarks.record" in about
    assert f"voxd {__version__}" in about
    assert {command.word for command in COMMANDS if command.action in ("help", "quit", "mute", "wipe")} <= set(
        re.findall(r"[a-z-]+", shown)
    )


def test_the_first_screen_says_what_it_is_for() -> None:
    """Before anything else: three sentences or four, the recording, two commands, three ways."""
    first, _, rest = README.partition("\n## ")
    assert len(re.findall(r"\.(?:\s|$)", first.split("![")[0])) <= 4
    assert RECORDING in first
    assert re.findall(r"^## (.*)$", README, re.MULTILINE)[:2] == ["Two commands", "Three ways to use it"]
    assert len(README.splitlines()) < 200
    assert all(way in rest for way in ("**Dictate here**", "**Talk to Voxtral on my GPU machine**", "**Measure it**"))


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_are_there(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+) ", PAGES[page])) - {"voxd"} <= targets
    calls = re.findall(r"(?:^|`|&& |\$ )(voxd|voxtui) ([a-z][a-z-]*)(?=[ `\n])", PAGES[page], re.MULTILINE)
    assert calls
    for program, name in ((voxd, "voxd"), (voxtui, "voxtui")):
        assert {command for called, command in calls if called == name} <= set(program.commands)
        assert CliRunner().invoke(program, ["--help"]).exit_code == 0


def test_all_commands_are_told() -> None:
    table = USE.split("| `voxd` | |")[1].split("\n\n")[0]
    first = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([a-z-]+)", first)) == set(voxd.commands)
    assert set(re.findall(r"^voxtui ([a-z]+)", USE, re.MULTILINE)) == set(voxtui.commands)


@pytest.mark.parametrize("page", PAGES)
def test_its_options_are_there(page: str) -> None:
    ours = [option for main in (voxd, voxtui) for command in main.commands.values() for option in command.params]
    known = {name for option in ours for name in (*option.opts, *option.secondary_opts)} | {
        "--version",
        "--no-deps",
    }  # the last is pip's
    assert set(re.findall(r"(?<=[\s`])--[a-z][a-z-]+", PAGES[page])) <= known


@pytest.mark.parametrize("program", [voxd, voxtui], ids=["voxd", "voxtui"])
def test_both_programs_say_their_version(program: click.Group) -> None:
    assert CliRunner().invoke(program, ["--version"]).output == f"{program.name}, version {__version__}\n"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("voxd st", {"start", "status", "stop"}),
        ("voxd start --tran", {"--transcribe"}),
        ("voxtui b", {"bench"}),
        ("voxtui connect --theme ", {"dark", "light"}),
        ("voxtui box --pl", {"--plain"}),  # `connect` may be left out
    ],
)
def test_a_shell_completes(line: str, offered: set[str]) -> None:
    """As the scripts ask that docs/USE.md tells of: the words so far in the environment, answers on standard output."""
    name, *words = line.split(" ")
    program = {"voxd": voxd, "voxtui": voxtui}[name]
    asked = {f"_{name.upper()}_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    done = CliRunner().invoke(program, prog_name=name, env=asked)
    assert {each.partition(",")[2] for each in done.output.split()} == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_page_tells_how_a_shell_learns_to_complete(shell: str) -> None:
    for name, program in (("voxd", voxd), ("voxtui", voxtui)):
        variable = f"_{name.upper()}_COMPLETE"
        assert f"{variable}={shell}_source {name}" in USE
        done = CliRunner().invoke(program, prog_name=name, env={variable: f"{shell}_source"})
        assert f"{shell}_complete" in done.output


def test_the_architecture_names_modules_that_are_there() -> None:
    """In its tables a module's folder is said once for a cell."""
    folder = None
    for cell in (ROOT / "docs" / "ARCHITECTURE.md").read_text().split("|"):
        for path in re.findall(r"`([a-z_/]+\.py)`", cell):
            folder = Path(path).parent if "/" in path else folder
            assert folder is not None
            assert (ROOT / folder / Path(path).name).exists(), path


def test_the_architecture_names_every_module_of_a_room() -> None:
    """A module that is not on the map is not found; widgets are named as users call them, so their folder is enough."""
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    modules = [path for program in ("voxd", "voxtui") for path in (ROOT / program).rglob("*.py")]
    known = [path for path in modules if path.parent.name != "widgets" and not path.name.startswith("__")]
    assert [path.stem for path in known if not re.search(rf"\b{path.stem}\b", page)] == []


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page: str) -> None:
    """Links lead to files and folders that exist, and to chapters that the page has."""
    for path, chapter in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", PAGES[page]):
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), path
        if chapter:
            heads = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
            assert chapter in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, chapter


def test_where_to_look_names_what_is_there() -> None:
    """The table of questions: a name in front of a module stands in that module."""
    rows = [line for line in README.split("| question | where |")[1].split("\n\n")[0].splitlines() if "| " in line]
    named = [found for row in rows for found in re.findall(r"`(\w+)` in (?:\[|`)([\w/]+\.py)", row)]
    assert len(named) >= 4
    for name, path in named:
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), (name, path)


def test_its_engine_is_the_example() -> None:
    """What README tells to write is what the example has, which its own test installs and runs."""
    project = tomllib.loads((ROOT / "examples" / "engine_plugin" / "pyproject.toml").read_text())["project"]
    told = next(block for block in re.findall(r"```toml\n(.*?)```", README, re.DOTALL) if "voxd.engines" in block)
    assert tomllib.loads(told)["project"]["entry-points"] == project["entry-points"]
