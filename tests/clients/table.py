"""The table of clients in docs/PROTOCOL.md, made from what the last run of `make test-clients` has seen.

`python -m tests.clients.table` writes it.
"""

from __future__ import annotations

import json
import sys

from tests.clients.catalogue import CLIENTS, RESULTS, ROOT, SCENARIOS

PAGE = ROOT / "docs" / "PROTOCOL.md"
BEGIN, END = "<!-- clients: python -m tests.clients.table -->\n", "<!-- /clients -->\n"
HEAD = "| client | version | what it gets through |\n|---|---|---|\n"
Results = dict[str, list[str]]  # client -> the scenarios that passed


def rows(results: Results) -> dict[str, str]:
    """A row for each client that has got through something, in the order of the catalogue."""
    found = {}
    for client in CLIENTS:
        passed = [words for name, words in SCENARIOS.items() if name in results.get(client.name, ())]
        if passed:
            found[client.name] = f"| {client.name} | {client.version()} | {', '.join(passed)} |\n"
    return found


def shown() -> dict[str, str]:
    """The rows of the page."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN + HEAD)
    lines = rest.partition(END)[0].splitlines(keepends=True)
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def write(results: Results) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}{HEAD}{''.join(rows(results).values())}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    if not RESULTS.exists():
        sys.exit("there are no results: `make test-clients` comes first")
    write(json.loads(RESULTS.read_text()))
