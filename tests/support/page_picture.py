"""`python -m tests.support.page_picture docs/page.png`: the page in the middle of a conversation, as Chromium shows it.

The speech is a clip, written down by the embedded engine; the answers are a script's, for no model is at hand.  More
pictures of it, to look at: `--all FOLDER`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from shared.audio import RATE
from tests.support.chat_server import STREAM, Asked, ChatServer, delta, words
from tests.support.chromium import Page, as_heard, chromium
from tests.support.daemon import voxd_process
from tests.support.speech import clip

ANSWERS = (
    "That is how A Tale of Two Cities begins, in 1859.",
    "And so the book goes on, in pairs.",
    "Heaven and the other way: then Dickens concedes that it was a time much like any other, and that only its "
    "noisiest authorities insisted on the superlative.",
)
SIZES = {"wide": (1280, 800), "phone": (390, 844)}


async def answer(asked: Asked) -> None:
    """A word every 70 ms, about as fast as a small model on a CPU."""
    turns = sum(role == "user" for role, _ in asked.messages)
    await asked.send(STREAM)
    for word in words(ANSWERS[min(turns, len(ANSWERS)) - 1]):
        await asked.send(delta(word))
        await asked.pause(0.07)
    await asked.send(delta("", "stop") + b"data: [DONE]\n\n")


async def pictures(folder: Path) -> None:
    """Every state, in both sizes, light and dark: FOLDER/<state>-<size>-<scheme>.png."""
    gap = np.zeros(7 * RATE, np.float32)
    sound = np.concatenate([part for number in (1, 2, 7) for part in (clip(f"two_cities_{number}").samples(), gap)])
    with tempfile.TemporaryDirectory() as name, ChatServer(answer).running() as chat:
        config = Path(name) / "config.yaml"
        config.write_text(json.dumps({"engine_options": {"cascade": {"url": chat.url}}}), encoding="utf-8")
        engines = ("--transcribe", "whisper", "--respond", "cascade", "--listen", "127.0.0.1:0")
        with voxd_process("--config", str(config), *engines, env={"VOXD_WEBRTC_ENABLED": "true"}) as daemon:
            listening = daemon.status()["listen"]
            assert isinstance(listening, list)
            (file,) = daemon.folder.rglob("token")
            home = f"http://localhost:{listening[0].rpartition(':')[2]}/"
            async with chromium(heard=as_heard(sound, Path(name))) as page:
                await page.go(home)
                await _of(page, "locked", folder, "document.body.dataset.state === 'locked'")
                await page.go(f"{home}#token={file.read_text().strip()}")
                await _of(page, "idle", folder, "document.body.dataset.state === 'idle'")
                await page.click("#start")
                await _of(page, "speaking", folder, "document.querySelector('.user .guess')?.textContent", 30)
                streaming = "document.querySelector('.model.open')?.textContent.includes('concedes')"
                await _of(page, "answering", folder, streaming, 60)
                daemon.process.kill()
                await _of(page, "again", folder, "document.body.dataset.state === 'again'")
                await page.click("#start")
                gone = "document.querySelector('#trouble').textContent.includes('voxd does not answer')"
                await _of(page, "gone", folder, f"document.body.dataset.state === 'idle' && {gone}")


async def _of(page: Page, state: str, folder: Path, condition: str, seconds: float = 20) -> None:
    await page.until(condition, seconds)
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            await page.dress(width, height, scheme)
            png = await page.picture()
            (folder / f"{state}-{size}-{scheme}.png").write_bytes(png)
    await page.dress(*SIZES["wide"], "light")


def main() -> None:
    if sys.argv[1] == "--all":
        asyncio.run(pictures(Path(sys.argv[2])))
        return
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(pictures(Path(name)))
        shutil.copyfile(Path(name) / "answering-wide-light.png", sys.argv[1])


if __name__ == "__main__":
    main()
