"""The shop window is true: its pictures are of this screen, its commands are there, its engine works.

After a change of the screen: `VOXD_WRITE_PICTURE=1 pytest tests/project/test_readme.py`, and look at docs/*.svg.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from shared.events import Provisional, SpeechStarted, TranscriptionDelta
from shared.latency import TurnMetrics
from tests.support.fakes import utterance
from tests.support.scenes import Scene, answered, asked, conversed, opening, settle
from voxd.cli import main as voxd
from voxd.engine.contract import Engine
from voxd.messages import Commit, Onset, Said, Settled
from voxtui.cli import main as voxtui
from voxtui.events import Event, Measured, Painted

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def spoken() -> list[Event]:
    said = [
        ("a", "He was not an ill-disposed young man,", 1310.0, 430.0),
        ("b", "unless to be rather cold hearted and rather selfish is to be ill-disposed.", 1440.0, 455.0),
    ]
    finals = [412, 398, 433, 520, 441, 405, 428, 573, 419, 437, 402, 455]  # like those of docs/BENCH.md
    past = [TurnMetrics(endpoint_ms=400.0, final_ms=float(value), rtf=0.4) for value in finals]
    events: list[Event] = [Measured(f"past{n}", metrics, complete=True) for n, metrics in enumerate(past)]
    for number, (key, text, first, final) in enumerate(said):
        metrics = TurnMetrics(first_text_ms=first, endpoint_ms=412.0, final_ms=final, rtf=0.31)
        events += [*utterance(key, number * 9, 9, text, metrics=False), Measured(key, metrics, complete=False)]
    return [
        *events,
        SpeechStarted("", 0, "c"),
        TranscriptionDelta("", "c", 0, "Had he married a more amiable woman,"),
        Provisional("", "c", "he might have been made still more respectable"),
    ]


def answering() -> list[Event]:
    """A conversation in which the engine was too slow twice."""
    return [*opening("mini"), Painted(15.0), *conversed(132.0), *asked(), *answered(engine=131.0, total=1702.0)]


PICTURES: dict[str, tuple[tuple[int, int], list[Event]]] = {
    "screen.svg": ((100, 30), [*opening(), *spoken()]),
    "answers.svg": ((130, 34), answering()),
}


async def draw(size: tuple[int, int], events: list[Event]) -> str:
    scene = Scene(events)
    async with scene.run_test(size=size) as pilot:
        await settle(pilot)
        return scene.export_screenshot(title="voxtui")


def plain(svg: str) -> str:
    """Without the names that are made anew for each picture."""
    return re.sub(r"terminal-\d+", "terminal", svg)


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_of_this_screen(name: str) -> None:
    path = ROOT / "docs" / name
    drawn = asyncio.run(draw(*PICTURES[name]))
    if os.environ.get("VOXD_WRITE_PICTURE"):
        path.write_text(drawn)

    assert f"docs/{name}" in README
    assert plain(drawn) == plain(path.read_text())


def test_its_commands_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
    for program, name in ((voxd, "voxd"), (voxtui, "voxtui")):
        wanted = set(re.findall(rf"^(?:\$ )?{name} ([a-z]+)", README, re.MULTILINE))
        assert wanted
        assert wanted <= set(program.commands)
        assert CliRunner().invoke(program, ["--help"]).exit_code == 0


def test_all_commands_of_the_daemon_are_in_the_table() -> None:
    table = README.split("| `voxd` | |")[1].split("\n\n")[0]
    first = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([a-z-]+)", first)) == set(voxd.commands)


def test_its_options_are_there() -> None:
    ours = [option for main in (voxd, voxtui) for command in main.commands.values() for option in command.params]
    known = {name for option in ours for name in (*option.opts, *option.secondary_opts)}
    assert set(re.findall(r"(?<=[\s`])--[a-z][a-z-]+", README)) <= known


def test_the_architecture_names_modules_that_are_there() -> None:
    """In its tables a module's folder is said once for a cell."""
    folder = None
    for cell in (ROOT / "docs" / "ARCHITECTURE.md").read_text().split("|"):
        for path in re.findall(r"`([a-z_/]+\.py)`", cell):
            folder = Path(path).parent if "/" in path else folder
            assert folder is not None
            assert (ROOT / folder / Path(path).name).exists(), path


def test_its_files_are_there() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_its_engine_works() -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Shout" in block)
    names: dict[str, type[Engine]] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102  (our own text)
    engine = names["Shout"]({}, lambda: None)
    engine.load(lambda _: None)
    engine.receive(Onset(1, 2, 0))
    engine.receive(Commit(1, 2, 16_000))

    assert list(engine.step(0)) == [Said(1, 2, "HEY"), Settled(1, 2, "completed", "HEY")]
