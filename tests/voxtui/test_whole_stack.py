"""Headless commands through everything: voxtui, the wire, a private voxd, its embedded engine."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.fakes import short_folder
from tests.support.speech import FOLDER
from voxtui.commands.local import NEEDED

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs the extra [whisper]"
)


async def program(*args: str) -> tuple[int | None, str, str]:
    """Where no voxd of this user runs."""
    with short_folder() as folder:
        child = await asyncio.create_subprocess_exec(
            "env", f"XDG_RUNTIME_DIR={folder}", f"HOME={folder}", sys.executable, "-m", "voxtui", *args,
            stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


async def test_transcribe_starts_a_voxd_of_its_own(tmp_path: Path) -> None:
    """Words for the voice, nothing for silence; and all of it in one go."""
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(16_000, np.float32), 16_000)
    code, out, err = await program("transcribe", str(FOLDER / "librivox_austen_0880.flac"), str(silence))
    assert code == 0, err
    assert re.fullmatch(r"He was not .* young man[.,]\n", out)
    assert "loading" in err


@pytest.mark.slow
async def test_demo() -> None:
    """Words and an answer, then the table, with the answer's times in their parts."""
    code, out, err = await program("demo")
    assert code == 0, err
    assert "made amiable himself" in out
    assert re.search(r"^» .*\w", out, re.MULTILINE)
    assert all(re.search(rf"^{name} +2 +\d", out, re.MULTILINE) for name in ("first_text_ms", "final_ms", "rtf"))
    assert all(re.search(rf"^{name} +[12] +\d", out, re.MULTILINE) for name in ("ttft_user_ms", "ttft_engine_ms"))
    assert "voxd pull" in err
