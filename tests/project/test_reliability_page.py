"""docs/RELIABILITY.md names tests that exist, and says of each whether `make test` runs it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")


@cache
def slowness(file: str) -> dict[str, bool]:
    """Test -> is it slow?"""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    marks = [
        ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)
    ]
    return {
        node.name: any("mark.slow" in text for text in (*marks, *map(ast.unparse, node.decorator_list)))
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_test_it_names_exists_and_is_marked_as_it_runs() -> None:
    named = re.findall(r"(◦ )?`((?:\w+/)*test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 80
    for slow, file, test in named:
        assert test in slowness(file), f"{file}::{test}"
        assert slowness(file)[test] is bool(slow), f"{file}::{test}"


def test_every_row_has_a_proof_or_says_why_not() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 4]
    without = [row for row in rows if "`" not in row.split("|")[3] and "nemesis" not in row.split("|")[3]]
    told = (
        "not in this version",
        "none is shipped",
        "has no tools",
        "on a GPU, by hand",
        "what must hold",
        "defence",
        "see below",
    )
    assert len(rows) > 40
    assert [row for row in without if not any(text in row for text in told)] == []
