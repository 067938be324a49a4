"""What each process begins with: nothing that phones home, no core dumps, and for engines no more than they need."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from shared.environment import AT_HOME, begin, engine_environment, names_of_keys
from shared.program import Program
from tests.support.daemon import voxd_process
from voxd.cli import main as voxd
from voxtui.cli import main as voxtui

ROOT = Path(__file__).parent.parent.parent
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "sesame",
    "DATABASE_URL": "sesame",
    "GITHUB_TOKEN": "sesame",
    "HF_TOKEN": "sesame",
    "NOTIFY_SOCKET": "@sesame",
    "OPENAI_API_KEY": "sesame",
    "SSH_AUTH_SOCK": "sesame",
    "VOXD_TOKEN": "sesame",
}
NEEDED = {
    "CUDA_VISIBLE_DEVICES": "0",
    "HF_HOME": "/srv/hf",
    "LC_ALL": "C.UTF-8",
    "LD_LIBRARY_PATH": "/opt/cuda",
    "OMP_NUM_THREADS": "2",
    "SSL_CERT_FILE": "/srv/ca.pem",
    "TRITON_CACHE_DIR": "/srv/triton",
    "https_proxy": "http://proxy:3128",
}


def programs() -> list[str]:
    """Modules that are run: `python -m NAME`, and what is installed as a command."""
    paths = [path for package in ("shared", "voxd", "voxtui") for path in sorted((ROOT / package).rglob("*.py"))]
    run = [path for path in paths if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in run]


@pytest.mark.parametrize("program", programs())
def test_every_program_begins_in_the_same_way(program: str) -> None:
    """Each program sets the environment first, or hands over to a command line that does so in `Program`."""
    tree = ast.parse((ROOT / program.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
    imported = [ast.unparse(node) for node in tree.body if isinstance(node, ast.ImportFrom)]
    if any(line.endswith("cli import main") for line in imported):
        return
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    first = next(node for node in main.body if not isinstance(getattr(node, "value", None), ast.Constant))
    assert ast.unparse(first).startswith("begin(os.environ"), f"{program}: main() does not call begin first"


@pytest.mark.parametrize("program", [voxd, voxtui])
def test_both_command_lines_begin_so(program: click.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(program, Program)
    for name in AT_HOME:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    for name in program.commands:
        with contextlib.suppress(SystemExit):
            program.main([name, "--help"])
        assert {os.environ.pop(each, None) for each in AT_HOME} == {value for value, _ in AT_HOME.values()}


def test_it_overrules_the_environment_except_where_somebody_asks_for_a_download() -> None:
    environ = {"ORT_DISABLE_TELEMETRY": "0", "HF_HUB_OFFLINE": "0"}
    begin(environ)
    assert {name: environ[name] for name in AT_HOME} == {name: value for name, (value, _) in AT_HOME.items()}
    assert environ["HF_HUB_OFFLINE"] == "0"
    pulling: dict[str, str] = {}
    begin(pulling, fetches=True)
    assert "HF_HUB_OFFLINE" not in pulling
    assert all(reason for _, reason in AT_HOME.values())


def test_an_engine_sees_what_it_needs_and_what_the_settings_name() -> None:
    options = {"cascade": {"key_env": "OPENAI_API_KEY"}, "plug-in": {"key_env": 7}, "echo": None}
    assert names_of_keys(options) == ("OPENAI_API_KEY",)
    seen = engine_environment(SECRETS | NEEDED, ("HF_TOKEN", *names_of_keys(options)))
    assert {name for name in SECRETS if name in seen} == {"HF_TOKEN", "OPENAI_API_KEY"}
    assert seen.items() >= NEEDED.items()
    assert not SECRETS.keys() & engine_environment(SECRETS).keys()


def environ_of(pid: object) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def core_limit(pid: object) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max core")).split()[4:6]


@pytest.mark.skipif(sys.platform != "linux", reason="environments are read from /proc")
def test_the_processes_of_a_daemon(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("engine_process: {environment: [GITHUB_TOKEN]}\nengine_options: {echo: {}}\n")
    secrets = {name: value for name, value in SECRETS.items() if name not in ("NOTIFY_SOCKET", "VOXD_TOKEN")}
    with voxd_process("--config", str(config), "--transcribe", "echo", env=secrets | NEEDED | {"OMP_X": "y"}) as daemon:
        pid = daemon.status()["engine_pid"]
        assert (core_limit(pid), core_limit(daemon.process.pid)) == (["0", "0"], ["0", "0"])
        seen = environ_of(pid)
    assert {name for name in secrets if name in seen} == {"GITHUB_TOKEN"}
    assert seen.items() >= {name: value for name, (value, _) in AT_HOME.items()}.items()
    assert seen["HF_HUB_OFFLINE"] == "1"


def test_a_process_leaves_no_core() -> None:
    """A process of its own forbids core dumps, since a limit that was lowered stays so."""
    code = "import os, resource; from shared.environment import begin; begin(os.environ)\n"
    code += "print(*resource.getrlimit(resource.RLIMIT_CORE))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.split() == [b"0", b"0"]
