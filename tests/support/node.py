"""Runs the page's pure modules in Node.js, without a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from voxd.web import page_files

NODE = shutil.which("node")


def evaluate(script: str, *given: object) -> object:
    """What the body `script` of an async function returns; `load(name)` imports a module, `given` are its arguments."""
    assert NODE is not None
    with TemporaryDirectory() as folder:
        for path, content in page_files.files().items():
            if path.endswith(".js"):
                Path(folder, Path(path).name).write_bytes(content)
        Path(folder, "package.json").write_text('{"type": "module"}')
        main = Path(folder, "evaluate.mjs")
        main.write_text(
            "const load = (name) => import(`./${name}.js`);\n"
            "let text = ''; for await (const piece of process.stdin) text += piece;\n"
            f"const found = await (async (...given) => {{ {script} }})(...JSON.parse(text));\n"
            "console.log(JSON.stringify(found ?? null));\n"
        )
        done = subprocess.run([NODE, main], input=json.dumps(given), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
