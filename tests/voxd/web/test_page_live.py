"""The page in a real browser, with a microphone that plays a clip, against a voxd in processes of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from benchmarks.live import word_error_rate
from shared.audio import RATE, Float32
from tests.support.chromium import CHROMIUM, Page, as_heard, chromium
from tests.support.daemon import Daemon, voxd_process
from tests.support.speech import clip
from tests.support.sshd import sshd

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
WORDS = ("--transcribe", "whisper")
ECHO = ("--transcribe", "echo", "--respond", "echo")
CALLS = {"VOXD_WEBRTC_ENABLED": "true"}
TRANSPORTS = ["WebRTC", "WebSocket"]
KNOWN = ("401",)  # the page asks without a token once, to learn whether one is wanted


@contextmanager
def voxd(*engines: str, calls: bool = True, **env: str) -> Iterator[tuple[Daemon, str, str]]:
    """A daemon's port and its token."""
    more = {**(CALLS if calls else {}), **env}
    with voxd_process(*engines, "--listen", "127.0.0.1:0", env=more) as daemon:
        listening = daemon.status()["listen"]
        assert isinstance(listening, list)
        (file,) = daemon.folder.rglob("token")
        yield daemon, listening[0].rpartition(":")[2], file.read_text().strip()


def state(name: str) -> str:
    return f"document.body.dataset.state === '{name}'"


def url(port: str | int, token: str = "") -> str:
    return f"http://localhost:{port}/" + (f"#token={token}" if token else "")


async def opened(page: Page, port: str | int, token: str) -> None:
    await page.go(url(port, token))
    await page.until(state("idle"))


async def listening(page: Page, transport: str) -> None:
    await page.click("#start")
    await page.until(state("on"))
    assert transport in await page.text("#link-state")


def spoken(*names: str) -> Float32:
    gap = np.zeros(RATE, np.float32)  # two speakers in one utterance are more than tiny.en takes
    return np.concatenate([part for name in names for part in (clip(name).samples(), gap)])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def complaints(page: Page) -> list[str]:
    return [line for line in page.console if not any(known in line for known in KNOWN)]


# ── the promise ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_words_of_the_microphone_are_on_the_page(transport: str, tmp_path: Path) -> None:
    names = ("two_cities_1", "two_cities_2", "two_cities_5", "librivox_austen_0920", "two_cities_7")
    heard = as_heard(spoken(*names), tmp_path)
    with voxd(*WORDS, calls=transport == "WebRTC") as (daemon, port, token):
        async with chromium(heard=heard) as page:
            await opened(page, port, token)
            await listening(page, transport)
            await page.until("document.querySelector('.user .text')?.textContent.trim()", 60)
            assert daemon.status()["calls"] == (1 if transport == "WebRTC" else 0)
            quiet = "document.body.dataset.speech === 'listening'"
            ended = f"{quiet} && document.querySelector('#turns').textContent.includes('other way')"
            await page.until(ended, 90)
            shown = await page.evaluate(
                "[...document.querySelectorAll('.user .text')].map(e => e.textContent).join(' ')"
            )
            figures = await page.evaluate(
                "Object.fromEntries([...document.querySelectorAll('#rows tr')].map(r =>"
                " [r.cells[0].textContent, r.cells[1].textContent]))"
            )
            assert complaints(page) == []
    error = word_error_rate([" ".join(clip(name).text for name in names)], [shown])
    print(f"{transport}: {error:.1f} % of words wrong; {figures}")  # noqa: T201
    assert error <= 11, shown
    for name in ("endpoint_ms", "first_text_ms", "final_ms", "render_ms"):
        assert float(figures[name]) > 0
    assert 400 < float(figures["endpoint_ms"]) < 1000, "500 ms of silence, and the way"
    assert figures["ttft_user_ms"] == "–", "nobody answers: absent, never 0"


PAINTS = """
window.paints = [];
let frame = 0;
const count = () => { frame += 1; requestAnimationFrame(count); };
requestAnimationFrame(count);
const watch = new MutationObserver(records => {
  for (const record of records) for (const node of record.addedNodes)
    if (node.nodeType === 3 && node.parentElement?.closest('.model .text')) paints.push([node.data, frame]);
});
watch.observe(document.querySelector('#turns'), {childList: true, subtree: true});
"""


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_delta_is_painted_on_its_own(transport: str, tmp_path: Path) -> None:
    """`echo` gives a token every 20 ms and a frame takes 17, so two can hardly share one unless they are held back."""
    heard = as_heard(clip("ps_goforward").samples(), tmp_path)
    with voxd(*ECHO, calls=transport == "WebRTC") as (_, port, token):
        async with chromium(heard=heard) as page:
            await opened(page, port, token)
            await page.evaluate(PAINTS)
            await listening(page, transport)
            await page.until("document.querySelectorAll('.model .text').length", 30)
            await page.until(
                "[...document.querySelectorAll('.model:not(.open) .text')].find(e => e.childNodes.length === 200)", 30
            )
            paints = await page.evaluate("paints")
            ttft = float((await page.text("#head-last")).removesuffix(" ms"))
    alone = len({frame for _, frame in paints})
    print(f"{transport}: {len(paints)} deltas in {alone} frames")  # noqa: T201
    assert 450 < ttft < 1500, "500 ms of silence, and the way there and back"
    assert len(paints) >= 200
    assert all(len(text.split()) == 1 for text, _ in paints)
    assert alone >= 0.8 * len(paints), "this machine drops frames, or the page gathers deltas"


# ── ways and detours ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_through_ssh_it_is_a_websocket_and_says_why(tmp_path: Path) -> None:
    heard = as_heard(clip("ps_goforward").samples(), tmp_path)
    with voxd(*ECHO) as (daemon, port, token), sshd() as server:
        here = free_port()
        ssh = ["ssh", "-F", str(server.config), "-T", "-o", "ExitOnForwardFailure=yes"]
        command = [*ssh, "-L", f"127.0.0.1:{here}:localhost:{port}", server.host, "echo ready; exec cat"]
        pipe = asyncio.subprocess.PIPE
        tunnel = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        try:
            assert tunnel.stdout is not None
            assert await tunnel.stdout.readline() == b"ready\n"
            async with chromium(heard=heard) as page:
                await opened(page, here, token)
                await listening(page, "WebSocket")
                why = await page.text("#link-why")
                assert "tunnel" in why
                assert "UDP" in why
                assert str(here) in why
                assert daemon.status()["calls"] == 0
                await page.until("document.querySelector('.model .text')?.textContent.includes('three')", 30)
        finally:
            tunnel.terminate()
            await tunnel.wait()


async def test_where_no_udp_passes_it_goes_on_by_websocket_with_what_was_said_meanwhile(tmp_path: Path) -> None:
    """The only candidate is an address where nobody is; the failed call gives its slot back and is not tried again."""
    heard = as_heard(clip("ps_goforward").samples(), tmp_path, 0.5)
    with voxd(*WORDS, VOXD_WEBRTC_ADDRESS="192.0.2.201") as (daemon, port, token):
        async with chromium(heard=heard) as page:
            await opened(page, port, token)
            await page.evaluate("document.querySelector('#start').focus()")
            await listening(page, "WebSocket")
            assert "no UDP came through" in await page.text("#link-why")
            assert await page.evaluate("document.activeElement.id") == "start", "the keyboard is still where it was"
            await page.until("document.querySelector('.user:not(.open) .text')", 30)
            assert "forward ten" in (await page.text(".user .text")).replace("10", "ten").lower()
            assert (daemon.status()["calls"], daemon.status()["sessions"]) == (0, 1)
            await page.click("#start")
            await page.until(state("idle"))
            asked = "performance.getEntriesByType('resource').filter(each => each.name.includes('/calls')).length"
            before = await page.evaluate(asked)
            await listening(page, "WebSocket")
            assert await page.evaluate(asked) == before
            assert "no UDP came through" in await page.text("#link-why")


async def test_the_microphone_is_not_needed_to_type(tmp_path: Path) -> None:
    with voxd(*ECHO) as (_, port, token):
        async with chromium() as page:
            await opened(page, port, token)
            await page.evaluate("document.querySelector('#typed').value = '<b>Hello</b>'")
            await page.click("#send")
            await page.until("document.querySelector('.model .text')?.textContent.includes('three')", 30)
            assert await page.text(".user .text") == "<b>Hello</b>", "text, never markup"
            assert "microphone" in await page.text("#link-why")
            await page.evaluate("document.querySelector('#typed').value = 'And now?'")
            await page.click("#send")
            await page.until("document.querySelectorAll('.model .text')[1]?.textContent.includes('three')", 30)
            await page.press("Escape", down=True)
            await page.until("document.querySelectorAll('.model .remark').length === 2")
            assert await page.text(".model .remark") == "stopped"
            assert await page.evaluate("document.querySelectorAll('.note').length") == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_push_to_talk_hears_nothing_before_and_ends_at_once(transport: str, tmp_path: Path) -> None:
    """Sound from while the page was looking for a way is not heard either: only the WebSocket is left after 3 s."""
    heard = as_heard(spoken("two_cities_1", "two_cities_2", "two_cities_5", "two_cities_7"), tmp_path, 0.0)
    with voxd(*ECHO, VOXD_WEBRTC_ADDRESS="192.0.2.201" if transport == "WebSocket" else "auto") as (_, port, token):
        async with chromium(heard=heard) as page:
            await opened(page, port, token)
            await page.click("#push")
            await listening(page, transport)
            begun = await page.evaluate("performance.now()")
            await page.until(f"performance.now() - {begun} > 3000")
            assert await page.evaluate("document.querySelectorAll('#turns li').length") == 0
            await page.press(" ", down=True)
            await page.until("document.body.dataset.speech === 'speaking'")
            await page.press(" ", down=False)
            await page.until("document.querySelector('.model .text')?.textContent.includes('one')")
            assert await page.evaluate("document.querySelectorAll('.user').length") == 1


async def test_without_encryption_from_another_machine_it_says_what_to_do() -> None:
    rules = "--host-resolver-rules=MAP gpu.example 127.0.0.1"
    with voxd(*ECHO, VOXD_SERVER_ALLOW_HOST="[gpu.example]") as (_, port, token):
        async with chromium(rules) as page:
            await page.go(f"http://gpu.example:{port}/#token={token}")
            await page.until(state("idle"))
            assert f"ssh -T -L 8000:localhost:{port} gpu.example" in await page.text("#trouble")
            await page.evaluate("document.querySelector('#typed').value = 'Hello'")
            await page.click("#send")
            await page.until("document.querySelector('.model .text')?.textContent.includes('three')", 30)


async def test_a_conversation_ends_and_begins_again_at_once(tmp_path: Path) -> None:
    with voxd(*ECHO) as (daemon, port, token):
        async with chromium(heard=as_heard(clip("ps_goforward").samples(), tmp_path)) as page:
            await opened(page, port, token)
            for transport in ("WebRTC", "WebRTC"):
                await listening(page, transport)
                await page.click("#start")
                await page.until(state("idle"))
            await listening(page, "WebRTC")
            await page.until("document.querySelector('.model .text')?.textContent.includes('three')", 30)
            assert daemon.status()["calls"] == 1, "the others gave theirs back"
            assert complaints(page) == []


# ── the token ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_token_comes_by_the_fragment_and_is_asked_for_otherwise() -> None:
    with voxd(*ECHO) as (daemon, port, token):
        async with chromium() as page:
            await page.go(url(port))
            await page.until(state("locked"))
            assert "voxd token --url" in await page.text("#locked")
            await page.evaluate("document.querySelector('#token').value = 'wrong'")
            await page.evaluate("document.querySelector('#locked').requestSubmit()")
            await page.until("document.querySelector('#locked-why').textContent.includes('refused')")
            await page.evaluate(f"document.querySelector('#token').value = '{url(port, token)}'")
            await page.evaluate("document.querySelector('#locked').requestSubmit()")
            await page.until(state("idle"))
        async with chromium() as page:
            await opened(page, port, token)
            assert await page.evaluate("location.href") == url(port)
            assert await page.evaluate("history.length") <= 2, "no entry with the token in it"
            assert await page.evaluate("sessionStorage.getItem('voxd-token')") == token
            assert await page.evaluate("localStorage.length + document.cookie.length") == 0
        assert token not in daemon.log.read_text()


async def test_what_went_wrong_is_a_sentence() -> None:
    with voxd(*ECHO, calls=False) as (daemon, port, token):
        async with chromium("--deny-permission-prompts") as page:
            await opened(page, port, token)
            await page.evaluate("document.querySelector('#typed').value = 'Hello'")
            await page.click("#send")
            await page.until("document.querySelector('.model .text')?.textContent.includes('three')", 30)
            daemon.process.kill()
            await page.until(state("again"))
            assert await page.text("#trouble") == "The connection to voxd broke. Trying again.", "nobody speaks here"
            await page.until("document.querySelector('#link-why').textContent.includes('voxd does not answer')")
            await page.click("#start")
            await page.until("document.querySelector('#trouble').textContent.includes('voxd does not answer')")
            await page.until("document.querySelector('.model .remark')")
