"""The names of the API's paths and parameters are the same in Python and in the page's JavaScript."""

from __future__ import annotations

from pathlib import Path

from shared import urls

PAGE = Path(__file__).parents[2] / "voxd" / "web" / "page"


def test_the_page_uses_the_names_that_the_server_reads() -> None:
    scripts = "".join(file.read_text() for file in PAGE.glob("*.js"))
    for name in (urls.REALTIME, urls.CLIENT_SECRETS, f"{urls.RESUME}:", f"{urls.LAST_SEQ}:"):
        assert name in scripts, name
