"""What lint and import-linter cannot prove: sizes, docstrings, words that must not occur, what a start-up imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "voxd", "voxtui")

FILE_LINES = 450
FUNCTION_LINES = 50
# A file or function that must be longer: "path" or "path:function" -> (lines, reason).  Split it by concept first.
RAISED: dict[str, tuple[int, str]] = {}

# The walls: the only places that may catch whatever a client, an engine or a callback throws.  path -> reason.
WALLS = {
    "voxd/app.py": "a reload that fails costs that reload",
    "voxd/telemetry/journald.py": "a line that cannot be written costs that line",
    "voxd/gateway/engine_host.py": "a client that throws at what it is told is ended, alone",
    "voxd/gateway/connection.py": "a timer has nobody above it: a bug ends its connection",
    "voxd/web/websocket.py": "a bug in one connection ends that connection, not the daemon",
    "voxd/webrtc/calls.py": "a bug in one call ends that call, not the daemon",
    "voxd/engine/loop.py": "one engine's bug ends its turns",
    "voxd/engine/cascade/chat.py": "a bug in one request ends that answer, not the thread of all requests",
    "voxd/engine/whisper/workers.py": "a decode that throws must end as a Failed, not as a dead thread",
    "voxtui/capture/blocking.py": "what a call in a thread raises is raised where it is awaited",
}
# Weights are safetensors, messages msgspec; TextIteratorStreamer holds text back until the next space.
BANNED_MODULES = {"pickle", "cPickle", "dill", "shelve"}
BANNED_NAMES = {"TextIteratorStreamer"}
BANNED_CALLS = {"time.time", "torch.load"}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a chain of attributes, else what there is of it."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def over_budget(path: Path) -> Iterator[str]:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > RAISED.get(name(path), (FILE_LINES, ""))[0]:
        yield f"{name(path)}: {lines} lines"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > RAISED.get(f"{name(path)}:{node.name}", (FUNCTION_LINES, ""))[0]:
                yield f"{name(path)}:{node.lineno}: {node.name} has {lines} lines"


def test_files_and_functions_stay_small() -> None:
    """Tests too, except that a table of cases is no function."""
    assert [line for path in sources(*PACKAGES, "tests") for line in over_budget(path)] == []


def test_every_module_says_what_it_is() -> None:
    assert [name(path) for path in sources(*PACKAGES) if not ast.get_docstring(tree(path))] == []


# What other people's code imports of a package itself, and the version that the build reads.
GATES = {"voxd/engine/conformance/__init__.py", "shared/__init__.py"}


def test_packages_define_nothing_and_hand_nothing_on() -> None:
    """Whoever reads an import sees the module in which a name is defined."""
    packages = [path for path in sources(*PACKAGES) if path.name == "__init__.py" and name(path) not in GATES]
    assert [name(path) for path in packages if len(tree(path).body) > 1] == []


def banned(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        found: set[str] = set()
        match node:
            case ast.Import(names=names):
                found = {alias.name.split(".")[0] for alias in names} & BANNED_MODULES
            case ast.ImportFrom(module=str(module), names=names):
                found = {module.split(".")[0]} & BANNED_MODULES
                found |= {alias.name for alias in names} & BANNED_NAMES
                found |= {f"{module}.{alias.name}" for alias in names} & BANNED_CALLS
            case ast.Attribute():
                found = {dotted(node)} & BANNED_CALLS | {node.attr} & BANNED_NAMES
        yield from (f"{name(path)}:{getattr(node, 'lineno', 0)}: {what}" for what in found)


def test_nevers() -> None:
    assert [line for path in sources(*PACKAGES, "tests") for line in banned(path)] == []


# What a module must not import that says *Pure*: I/O, clocks, threads, chance, logs, models, frameworks.
IMPURE = {
    *("asyncio", "threading", "queue", "socket", "time", "datetime", "logging", "random", "os", "signal", "subprocess"),
    *("torch", "transformers", "starlette", "uvicorn", "aiortc", "websockets", "textual", "click", "prometheus_client"),
}


def is_pure(path: Path) -> bool:
    return re.search(r"\bPure\b", ast.get_docstring(tree(path)) or "") is not None


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Top-level names, also of imports inside functions; not those for the type checker alone."""
    for node in nodes:
        match node:
            case ast.If() if "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            case ast.Import(names=names):
                yield from (alias.name.split(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield module.split(".")[0]
        yield from imports(ast.iter_child_nodes(node))


def test_what_says_that_it_is_pure_imports_no_clock_no_io_and_no_model() -> None:
    """The docstring is the one place that says it: no list of modules to keep beside it."""
    pure = [path for path in sources(*PACKAGES) if is_pure(path)]
    assert len(pure) > 60
    assert {name(path): found for path in pure if (found := set(imports(tree(path).body)) & IMPURE)} == {}


def sleeps(path: Path) -> Iterator[str]:
    """Calls of anything named sleep, but `asyncio.sleep(0)`: that yields once and waits for no clock."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "sleep":
            only_yields = [arg.value for arg in node.args if isinstance(arg, ast.Constant)] == [0]
            if not only_yields:
                yield f"{name(path)}:{node.lineno}"


def test_no_test_sleeps() -> None:
    """A test waits for what it is about, with a deadline; a sleep is either too short or too long."""
    assert [line for path in sources("tests") for line in sleeps(path)] == []


def blind_excepts(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or dotted(kind) in {"Exception", "BaseException"} for kind in kinds):
                yield f"{name(path)}:{node.lineno}"


def test_only_the_walls_catch_everything() -> None:
    outside = [path for path in sources(*PACKAGES) if name(path) not in WALLS]
    assert [line for path in outside for line in blind_excepts(path)] == []


# ---- what a start costs: proven in a fresh interpreter, for an import anywhere below would hide from lint ------------


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def loaded_by_help(program: str) -> set[str]:
    """Top-level modules in memory after `PROGRAM --help`."""
    done = run(f"""
        import sys
        from {program}.cli import main
        sys.argv = ["{program}", "--help"]
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, stop.code
        print("loaded:", *sorted({{module.split(".")[0] for module in sys.modules}}))
    """)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    return set(done.stdout.rsplit("loaded:", 1)[1].split())


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        ("voxtui", {"textual", "librosa", "numpy", "aiortc", "soundfile", "sounddevice", "torch"}),
        ("voxd", {"torch", "onnxruntime", "faster_whisper", "ctranslate2", "transformers", "textual"}),
    ],
)
def test_help_is_quick(program: str, heavy: set[str]) -> None:
    assert loaded_by_help(program) & heavy == set()


def test_the_gateway_holds_no_model() -> None:
    """Not even indirectly: what the gateway imports, every connection pays for."""
    done = run("import sys, voxd.app; print(*sorted({module.split('.')[0] for module in sys.modules}))")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & {"torch", "onnxruntime", "ctranslate2", "faster_whisper", "transformers"} == set()
