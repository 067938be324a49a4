"""What docs/PROTOCOL.md says about clients is what the catalogue holds and the locks pin."""

from __future__ import annotations

from tests.clients import table
from tests.clients.catalogue import CLIENTS, HERE, SCENARIOS


def test_the_page_names_every_client_its_version_and_all_that_it_has_to_get_through() -> None:
    wanted = table.rows({client.name: list(client.scenarios) for client in CLIENTS})
    assert table.shown() == wanted, "`make test-clients`, then `python -m tests.clients.table`"


def test_every_scenario_has_words_and_a_script_that_knows_it() -> None:
    for client in CLIENTS:
        folder = HERE / ("npm" if client.group == "npm" else "python")
        script = (folder / client.script).read_text(encoding="utf-8")
        for scenario in client.scenarios:
            assert scenario in SCENARIOS
            assert scenario in script
