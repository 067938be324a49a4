"""A headless Chromium and one page in it, driven by the DevTools protocol over its WebSocket.

The microphone plays a file, when one is given: from the moment it is opened, once, then silence.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.asyncio.client import ClientConnection, connect

from shared.audio import RATE, Float32

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
START_S = 120.0
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--mute-audio"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
    *("--allow-loopback-in-peer-connection", "--remote-debugging-port=0"),
)
Json = dict[str, Any]


class PageError(AssertionError):
    """What was evaluated has thrown."""


class Page:
    """One tab.  `console`: what its programs and the browser itself had to complain about."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self.console: list[str] = []

    async def read(self) -> None:
        async for text in self._link:
            message = json.loads(text)
            waiting = self._waiting.pop(message.get("id", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            elif message.get("method") == "Runtime.exceptionThrown":
                self.console.append(json.dumps(message["params"]["exceptionDetails"])[:500])
            elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                entry = message["params"]["entry"]
                self.console.append(f"{entry['text']} {entry.get('url', '')}")

    async def call(self, method: str, patience_s: float = 30.0, **params: object) -> Json:
        number = next(self._ids)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._link.send(json.dumps({"id": number, "method": method, "params": params}))
        answer = await asyncio.wait_for(waiting, patience_s)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']}")
        result: Json = answer["result"]
        return result

    async def go(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def evaluate(self, expression: str, patience_s: float = 30.0) -> Any:
        """The value, awaited where it is a promise.  Raises PageError."""
        more = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = await self.call("Runtime.evaluate", patience_s, expression=expression, **more)
        if "exceptionDetails" in answer:
            raise PageError(json.dumps(answer["exceptionDetails"])[:1000])
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 120.0) -> None:
        """Returns once it holds; the page itself looks, every 20 ms.  Raises PageError."""
        found = await self.evaluate(
            f"""new Promise(done => {{
              const end = performance.now() + {seconds * 1000};
              const look = () => {{
                const found = ({expression});
                if (found || performance.now() > end) done(Boolean(found));
                else setTimeout(look, 20);
              }};
              look();
            }})""",
            seconds + 30,
        )
        if not found:
            shown = await self.evaluate("document.body.innerText")
            raise PageError(f"never true: {expression}\non the page:\n{shown}\nconsole: {self.console}")

    async def text(self, selector: str) -> str:
        return str(await self.evaluate(f"document.querySelector({selector!r}).textContent"))

    async def click(self, selector: str) -> None:
        await self.evaluate(f"document.querySelector({selector!r}).click()")

    async def press(self, key: str, *, down: bool) -> None:
        code = {" ": "Space"}.get(key, key)
        await self.call("Input.dispatchKeyEvent", type="keyDown" if down else "keyUp", key=key, code=code)

    async def picture(self) -> bytes:
        """PNG of what is to be seen."""
        answer = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    async def dress(self, width: int, height: int, scheme: str) -> None:
        """`scheme`: light or dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def as_heard(samples: Float32, folder: Path, before_s: float = 2.0) -> Path:
    """float32 [n] at 16 kHz -> a file for the microphone, with silence before it, for it plays from the beginning."""
    path = folder / "heard.wav"
    sound = np.concatenate((np.zeros(int(before_s * RATE), np.float32), samples, np.zeros(RATE, np.float32)))
    soundfile.write(path, np.repeat(sound, 3), 3 * RATE, subtype="PCM_16")
    return path


@asynccontextmanager
async def chromium(*flags: str, heard: Path | None = None) -> AsyncIterator[Page]:
    """A blank page.  `heard`: what the microphone hears."""
    assert CHROMIUM is not None
    sound = [f"--use-file-for-fake-audio-capture={heard}%noloop"] if heard else []
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = (CHROMIUM, *FLAGS, *sound, *flags, f"--user-data-dir={profile}", "about:blank")
        quiet = asyncio.subprocess.DEVNULL
        env = {**os.environ, "TMPDIR": profile}  # where it forgets a socket
        browser = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=asyncio.subprocess.PIPE, env=env)
        assert browser.stderr is not None
        talking = asyncio.create_task(_address(browser.stderr))
        try:
            address = await asyncio.wait_for(talking, START_S)
            draining = asyncio.create_task(browser.stderr.read())
            async with connect(await _first_page(address), max_size=None, ping_interval=None) as link:
                page = Page(link)
                reading = asyncio.create_task(page.read())
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                await page.dress(1280, 800, "light")
                yield page
                reading.cancel()
            draining.cancel()
        finally:
            browser.terminate()
            await browser.wait()


async def _address(stderr: asyncio.StreamReader) -> str:
    """Of the browser, which says it once it listens."""
    while line := await stderr.readline():
        if b"DevTools listening on " in line:
            return line.decode().split()[-1]
    raise AssertionError("Chromium ended before it listened")


async def _first_page(browser: str) -> str:
    async with connect(browser) as link:
        await link.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        while (answer := json.loads(await link.recv())).get("id") != 1:
            pass
    found = next(each for each in answer["result"]["targetInfos"] if each["type"] == "page")
    return f"{browser.partition('/devtools/')[0]}/devtools/page/{found['targetId']}"
