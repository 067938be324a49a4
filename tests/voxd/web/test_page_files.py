"""The files of the page at `/` and their headers; `tests/voxd/web/test_page_live.py` has the page in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from voxd.web import page_files
from voxd.web.gate import OPEN_PATHS, Gate, Guarded
from voxd.web.pages import ERROR_PAGES, nowhere

TOKEN = b"s3cret-token"
GATE = Gate(TOKEN, frozenset(), frozenset(), open_paths=OPEN_PATHS | page_files.PATHS)
FILES = {path: content.decode() for path, content in page_files.files().items()}
LINES = 450  # as of every module


def client(host: str = "localhost:8000") -> httpx.AsyncClient:
    app = Guarded(Starlette(routes=[*page_files.routes(), nowhere()], exception_handlers=ERROR_PAGES), GATE)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


async def test_the_page_needs_no_token_and_everything_on_it_is_there() -> None:
    async with client() as http:
        assert (await http.get("/")).headers["content-type"] == "text/html; charset=utf-8"
        assert "/page/main.js" in page_files.PATHS
        for path in page_files.PATHS:
            assert (await http.get(path)).status_code == 200
        assert (await http.get("/status")).status_code == 401, "what the page asks for does need it"


@pytest.mark.parametrize("path", sorted(page_files.PATHS))
async def test_browsers_are_held_to_it(path: str) -> None:
    async with client() as http:
        headers = (await http.get(path)).headers

    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == policy.pop("frame-ancestors") == policy.pop("base-uri") == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_a_browser_that_has_it_is_told_so() -> None:
    async with client() as http:
        first = await http.get("/page/main.js")
        again = await http.get("/page/main.js", headers={"If-None-Match": f'"x", W/{first.headers["etag"]}'})
        other = await http.get("/page/main.js", headers={"If-None-Match": '"x"'})
    assert (first.headers["cache-control"], again.status_code, again.content) == ("no-cache", 304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["content-security-policy"]
    assert (other.status_code, other.text) == (200, first.text)


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/__init__.py", "/page/../status", "/page/..%2f__init__.py", "/page/%2e%2e/http.py", "/page/x.js"],
)
async def test_no_path_leads_out_of_it(path: str) -> None:
    """Without a key, what is not a file of the page looks as if it were not there."""
    asked = httpx.Request("GET", httpx.URL("http://localhost:8000").copy_with(raw_path=path.encode()))
    async with client() as http:
        answer = await http.send(asked)
    assert answer.status_code in (401, 404)
    assert "Beside step 3" not in answer.text


async def test_a_name_that_is_not_ours_gets_no_page() -> None:
    async with client("evil.example:8000") as http:
        assert (await http.get("/")).status_code == 421
    async with client() as http:
        assert (await http.get("/", headers={"Origin": "http://evil.example"})).status_code == 403
        assert (await http.post("/")).status_code == 405


# ── what a browser would not tell ───────────────────────────────────────────────────────────────────────────────────


def test_nothing_of_a_server_can_become_markup() -> None:
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert [path for path, text in FILES.items() if name in text] == []


def test_nothing_is_inline_or_from_elsewhere() -> None:
    html = FILES["/"]
    assert "style=" not in html
    assert "<style" not in html
    assert " onclick" not in html
    assert html.count("<script") == html.count('<script type="module" src="/page/')
    names = {"http://www.w3.org/2000/svg"}  # a namespace, not an address
    assert {found for text in FILES.values() for found in re.findall(r"https?://[a-z.0-9/]+", text)} <= names


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_everybody_can_read_it_by_day_and_by_night() -> None:
    """WCAG 2.2 asks for 4.5 for text, 3 for the edges of fields to fill in."""
    blocks = re.findall(r":root \{(.*?)\}", FILES["/page/page.css"], re.DOTALL)
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    for colours in (light, dark):
        for paper in ("paper", "raised"):
            for ink in ("ink", "soft", "faint", "accent", "mine", "bad"):
                assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
            assert contrast(colours["edge"], colours[paper]) >= 3
        assert contrast(colours["accent-ink"], colours["accent"]) >= 4.5
        assert contrast(colours["bad"], colours["bad-paper"]) >= 4.5


def test_modules_stay_small_and_say_what_they_are() -> None:
    scripts = {path: text for path, text in FILES.items() if path.endswith(".js")}
    assert [path for path, text in scripts.items() if len(text.splitlines()) > LINES] == []
    assert [path for path, text in scripts.items() if not text.startswith("// ")] == []


def test_all_files_are_packaged() -> None:
    """`pyproject.toml` names the kinds of files one by one."""
    listed = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    line = next(line for line in listed.splitlines() if line.startswith('"voxd.web"'))
    assert all(f'"page/*{kind}"' in line for kind in page_files.KINDS)
