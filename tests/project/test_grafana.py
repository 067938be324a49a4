"""Dashboard and alerts speak of metrics that a real daemon has, and of nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.daemon import voxd_process
from tests.voxd.telemetry.test_prometheus import families, scrape
from tests.voxd.test_server import SILENCE, SPEECH, talk
from voxd.cli import main as voxd
from voxtui.cli import main as voxtui

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "docs" / "grafana" / "voxd.json"
RULES = ROOT / "docs" / "grafana" / "alerts.yml"
NAME = re.compile(r"\bvoxd_[a-z0-9_]+")
PROMTOOL = shutil.which("promtool")


def expressions(found: Any) -> Iterator[str]:
    """Everything that is asked of Prometheus, however deep."""
    if isinstance(found, dict):
        yield from (str(found[key]) for key in ("expr", "query") if isinstance(found.get(key), str))
        for each in found.values():
            yield from expressions(each)
    elif isinstance(found, list):
        for each in found:
            yield from expressions(each)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def names(found: Any) -> set[str]:
    return {name for expression in expressions(found) for name in NAME.findall(expression)}


async def test_every_metric_is_one_that_a_daemon_exports() -> None:
    environ = {"VOXD_ENGINE_OPTIONS": "{echo: {tokens: 20, token_ms: 5}}"}
    with voxd_process("--transcribe", "echo", "--respond", "echo", env=environ) as daemon:
        async with talk(daemon) as person:
            await person.speak(SPEECH + SILENCE)
            await person.until("response.done")
        page = await scrape(daemon)
    exported = {sample.name for family in families(page).values() for sample in family.samples}
    # Nobody was refused; clients would have to report it; echo computes nothing and has no head start.
    absent_here = {"voxd_refusals_total", "voxd_ttft_user_seconds_bucket", "voxd_rtf_ratio_bucket"}
    absent_here |= {"voxd_saved_seconds_bucket", "voxd_saved_seconds_count"}
    declared = {f"{name}_{kind}" for name in families(page) for kind in ("total", "bucket", "count")}
    assert absent_here <= declared
    for found in (json.loads(BOARD.read_text()), rules()):
        assert len(names(found)) > 8
        assert names(found) - exported - absent_here == set()


def test_labels_and_panels_are_those_of_a_board() -> None:
    board = json.loads(BOARD.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["title"] and panel["targets"] for panel in panels)
    taken = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken)), "two panels lie on each other"
    assert max(x for x, _ in taken) < 24


def test_a_runbook_names_options_that_there_are() -> None:
    programs = {"voxd": voxd, "voxtui": voxtui}
    calls = re.findall(r"`(?:sudo )?(voxd|voxtui) ([a-z-]+)([^`]*)`", RULES.read_text())
    assert len(calls) > 4
    for program, name, rest in calls:
        known = {option for param in programs[program].commands[name].params for option in param.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, (program, name, rest)


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "runbook"}
        assert "`" in rule["annotations"]["runbook"] or "Voxd" in rule["annotations"]["runbook"], rule["alert"]


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")
@pytest.mark.parametrize("arguments", [("check", "rules", str(RULES)), ("test", "rules", "tests/data/alerts_test.yml")])
def test_alerts_fire_when_they_should_and_only_then(arguments: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")
def test_every_question_of_the_board_is_understood(tmp_path: Path) -> None:
    """As rules, for promtool reads nothing else; what Grafana fills in is filled in."""
    asked = [target["expr"] for panel in json.loads(BOARD.read_text())["panels"] for target in panel.get("targets", [])]
    assert len(asked) > 40
    filled = [
        re.sub(r"\$__rate_interval", "5m", each).replace("$job", "voxd").replace("$instance", ".*") for each in asked
    ]
    rules = [{"record": f"board:question:{number}", "expr": each} for number, each in enumerate(filled)]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "rules", str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways() -> None:
    tested = (ROOT / "tests" / "data" / "alerts_test.yml").read_text()
    for rule in rules():
        assert f"alertname: {rule['alert']}," in tested, "that it stays silent"
        assert f'expr: ALERTS{{alertname="{rule["alert"]}"' in tested, "that it fires"
