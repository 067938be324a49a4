"""`@openai/agents-realtime` over WebRTC in a real browser: the published bundle on a page of another port, a microphone
that plays a clip, and a client secret made for it, as its guide for browsers has it."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.catalogue import HERE
from tests.clients.stage import QUESTION, SPEECH, TOKEN, Stage, stage
from tests.clients.test_clients import is_the_speech
from tests.support.chromium import CHROMIUM, as_heard, chromium
from tests.support.speech import clip

BUNDLE = HERE / "npm" / "node_modules" / "@openai" / "agents-realtime" / "dist" / "bundle"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(not BUNDLE.exists(), reason="`make test-clients` installs the package"),
]
PAGE = """<!doctype html><title>agents</title><body></body><script type="module">
import { OpenAIRealtimeWebRTC, RealtimeAgent, RealtimeSession } from "/bundle/openai-realtime-agents.mjs";
const given = new URLSearchParams(location.hash.slice(1));
const transport = new OpenAIRealtimeWebRTC({ baseUrl: given.get("calls") });
const agent = new RealtimeAgent({ name: "assistant", instructions: "You are a helpful assistant." });
const turnDetection = { type: "server_vad", silenceDurationMs: 500 };
const input = { transcription: { model: "gpt-4o-mini-transcribe" }, turnDetection };
const session = new RealtimeSession(agent, { transport, config: { outputModalities: ["text"], audio: { input } } });
window.seen = { errors: [], transcripts: [], answers: [], session, callId: "" };
session.on("error", ({ error }) => seen.errors.push(JSON.stringify(error)));
session.on("transport_event", event => {
  if (event.type === "conversation.item.input_audio_transcription.completed") seen.transcripts.push(event.transcript);
  if (event.type === "response.done") seen.answers.push(event.response.output[0].content[0].text);
});
session.connect({ apiKey: given.get("key") }).then(
  () => { seen.connected = true; seen.callId = transport.callId; },
  error => seen.errors.push(String(error)));
</script>"""


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/bundle/"):
            self.path = self.path.removeprefix("/bundle")
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def guess_type(self, path: Any) -> str:
        return "text/javascript" if str(path).endswith(".mjs") else super().guess_type(path)

    def log_message(self, *_: object) -> None:
        """Not into the test's output."""


@contextmanager
def site() -> Iterator[int]:
    """The port of the page."""
    handler = functools.partial(Handler, directory=str(BUNDLE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


async def secret(here: Stage) -> str:
    """As the application's own server makes it for its page."""
    url = f"http://127.0.0.1:{here.port}/v1/realtime/client_secrets"
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as asking:
        made = await asking.post(url, json={"session": {"type": "realtime", "model": "gpt-realtime"}})
    return str(made.json()["value"])


async def test_a_page_talks_and_types_over_webrtc(tmp_path: Path) -> None:
    heard = as_heard(clip(SPEECH).samples(), tmp_path)
    with stage(tmp_path) as here, here.daemon(VOXD_WEBRTC_ENABLED="true"), site() as port:
        given = f"calls=http://127.0.0.1:{here.port}/v1/realtime/calls&key={await secret(here)}"
        async with chromium(heard=heard) as page:
            await page.go(f"http://localhost:{port}/#{given}")
            await page.until("window.seen && (seen.connected || seen.errors.length)")
            await page.until("seen.transcripts.length && seen.answers.length || seen.errors.length")
            await page.evaluate(f"seen.session.sendMessage({json.dumps(QUESTION)})")
            await page.until("seen.answers.length > 1 || seen.errors.length")
            seen = await page.evaluate("({...seen, session: null, muted: seen.session.muted})")
            await page.evaluate("seen.session.close()")

    assert not seen["errors"], seen
    assert seen["callId"].startswith("rtc_"), "the page may read `Location`"
    (words,) = filter(None, seen["transcripts"])  # opening the microphone can be a sound, without words
    assert is_the_speech(words), seen
    assert is_the_speech(seen["answers"][0].removeprefix("You said: ")), seen
    assert seen["answers"][1] == f"You said: {QUESTION}"
