"""The page whose link breaks in mid-speech comes back by itself, and no word is missing or doubled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.live import word_error_rate
from tests.chaos.fault_proxy import FaultProxy
from tests.support.calls import PATH, http
from tests.support.chromium import CHROMIUM, Page, as_heard, chromium
from tests.support.daemon import voxd_process
from tests.support.speech import clip
from tests.voxd.web.test_page_live import (
    CALLS,
    ECHO,
    TRANSPORTS,
    WORDS,
    free_port,
    listening,
    opened,
    spoken,
    state,
    voxd,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
NAMES = ("two_cities_1", "two_cities_2", "two_cities_5", "librivox_austen_0920", "two_cities_7")
SAID = "document.querySelectorAll('.user').length > 1 && document.querySelector('.user.open')?.textContent.length > 8"
QUIET = "document.body.dataset.speech === 'listening'"
NO_TROUBLE = "document.querySelector('#trouble').hidden"
Fault = Callable[[FaultProxy, Page], Awaitable[None]]


async def reset(proxy: FaultProxy, page: Page) -> None:
    """Cuts the link so that both sides know at once."""
    proxy.reset()
    await page.until(state("again"))
    trouble = await page.text("#trouble")
    assert trouble == "The connection to voxd broke. Trying again. What you say meanwhile is kept, up to 30 s."


async def vanish(proxy: FaultProxy, page: Page) -> None:
    """Lets nothing through any more and tells nobody, so the page has to find out."""
    proxy.swallow()
    await page.until(state("again"))
    assert "voxd has not answered for 6 s" in await page.text("#trouble")
    proxy.heal()


async def stall(proxy: FaultProxy, page: Page) -> None:
    """Holds everything back for five seconds, and then delivers it."""
    proxy.stall()
    await page.until("document.querySelector('#link-why').textContent.includes('the network is slow')")
    assert await page.evaluate(state("on"))
    proxy.heal()


@pytest.mark.parametrize("fault", [reset, vanish, stall])
async def test_a_link_that_breaks_in_mid_speech_costs_no_word(fault: Fault, tmp_path: Path) -> None:
    heard = as_heard(spoken(*NAMES), tmp_path)
    with voxd(*WORDS) as (daemon, port, token):
        proxy = FaultProxy(("127.0.0.1", int(port)))
        async with proxy.listening(("127.0.0.1", 0)) as here, chromium(heard=heard) as page:
            assert not isinstance(here, Path)
            await opened(page, here[1], token)
            await listening(page, "WebSocket")
            await page.until(SAID, 60)
            await fault(proxy, page)
            await page.until(f"{state('on')} && {NO_TROUBLE}", 30)
            await page.until(f"{QUIET} && document.querySelector('#turns').textContent.includes('other way')", 90)
            shown = await words(page)
            notes = await page.evaluate("[...document.querySelectorAll('.note')].map(e => e.textContent)")
            assert notes == [], "the same session goes on"
            assert daemon.status()["sessions"] == 1
    error = word_error_rate([" ".join(clip(name).text for name in NAMES)], [shown])
    print(f"{fault.__name__}: {error:.1f} % of words wrong")  # noqa: T201
    assert error <= 11, shown


async def words(page: Page) -> str:
    shown = "[...document.querySelectorAll('.user:not(.broken) .text')].map(e => e.textContent).join(' ')"
    return str(await page.evaluate(shown))


# ── a daemon that is gone ───────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def talking(tmp_path: Path, transport: str, restarted: bool) -> AsyncIterator[Page]:
    """Kills the daemon of a page in mid-speech, and perhaps starts it again."""
    port, secret = free_port(), tmp_path / "token"
    secret.write_text("a-token-of-this-test-that-is-long-enough-to-be-one\n")
    secret.chmod(0o600)
    more = {"VOXD_SERVER_TOKEN_FILE": str(secret), **(CALLS if transport == "WebRTC" else {})}
    names = ("--transcribe", "whisper", "--listen", f"127.0.0.1:{port}")
    async with chromium(heard=as_heard(spoken(*NAMES), tmp_path)) as page:
        with voxd_process(*names, env=more) as daemon:
            await opened(page, port, secret.read_text().strip())
            await listening(page, transport)
            await page.until(SAID, 60)
            daemon.process.kill()
        await page.until(state("again"))
        assert "Trying again" in await page.text("#trouble")
        if not restarted:
            yield page
            return
        with voxd_process(*names, env=more):
            yield page


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_daemon_that_was_restarted_gets_what_was_not_yet_text(transport: str, tmp_path: Path) -> None:
    async with talking(tmp_path, transport, restarted=True) as page:
        await page.until(f"{state('on')} && {NO_TROUBLE}", 60)
        await page.until(f"{QUIET} && document.querySelector('#turns').textContent.includes('other way')", 90)
        assert "WebSocket" in await page.text("#link-state")
        (note,) = await page.evaluate("[...document.querySelectorAll('.note')].map(e => e.textContent)")
        assert note.endswith("this is a new one, which does not know what was said before.")
        shown = await words(page)
    error = word_error_rate([" ".join(clip(name).text for name in NAMES)], [shown])
    print(f"{transport}: {error:.1f} % of words wrong; {note}")  # noqa: T201
    assert error <= 11, shown


async def test_who_has_had_enough_of_trying_ends_it(tmp_path: Path) -> None:
    async with talking(tmp_path, "WebSocket", restarted=False) as page:
        await page.until("document.querySelector('#link-why').textContent.includes('voxd does not answer')")
        assert await page.text("#start") == "End"
        await page.click("#start")
        await page.until(state("idle"))
        assert await page.evaluate("document.querySelector('#level').hidden"), "the microphone is off"
        await page.until("document.querySelector('#trouble').textContent.includes('voxd does not answer')")


# ── what cannot be ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "expected"),
    [("NotAllowedError", "allow it beside the address"), ("NotFoundError", "connect one")],
)
async def test_without_a_microphone_it_says_what_to_do(name: str, expected: str) -> None:
    refused = f"navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{name}'))"
    with voxd(*ECHO) as (_, port, token):
        async with chromium() as page:
            await opened(page, port, token)
            await page.evaluate(refused)
            await page.click("#start")
            await page.until("!document.querySelector('#trouble').hidden")
            assert expected in await page.text("#trouble")
            assert await page.evaluate(state("idle"))
            assert await page.evaluate("document.querySelector('#start').disabled") is False


async def test_why_a_conversation_ended_stays_on_the_screen() -> None:
    """The page asks for the status at once, and a good answer must not wipe the reason away."""
    with voxd(*ECHO) as (daemon, port, token):
        async with chromium() as page:
            await opened(page, port, token)
            await listening(page, "WebRTC")
            await page.evaluate("window.asked = performance.getEntriesByType('resource').length")
            call = next(line for line in daemon.log.read_text().splitlines() if "client ID" in line).split()[-1]
            async with http(daemon) as client:
                assert (await client.delete(f"{PATH}/{call}")).status_code == 200
            await page.until(state("idle"))
            await page.until("performance.getEntriesByType('resource').length > asked")
            assert await page.text("#trouble") == "The call was ended by voxd."
            assert not await page.evaluate("document.querySelector('#trouble').hidden")
