"""What lint and import-linter cannot prove: sizes, docstrings, words that must not occur, what a start-up imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.imports import loaded_after

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
    "voxd/engine/llama/library.py": "what a callback raises is raised where the answer is awaited, not swallowed",
    "voxd/engine/llama/workers.py": "an answer that throws must end as a Failed, not as a dead thread",
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
    most, _ = RAISED.get(name(path), (FILE_LINES, ""))
    if lines > most:
        yield f"{name(path)}: {lines} lines, limit {most}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            most, _ = RAISED.get(f"{name(path)}:{node.name}", (FUNCTION_LINES, ""))
            if lines > most:
                yield f"{name(path)}:{node.lineno}: {node.name} has {lines} lines, limit {most}"


HERE = "tests/project/test_architecture.py"


def none(found: Iterable[str], what: str, exception: str) -> None:
    """Fails with every offender, what is wanted of it, and where an exception is declared with its reason."""
    lines = list(found)
    assert not lines, "\n".join([f"{what}.  {exception}", *lines])


def test_files_and_functions_stay_small() -> None:
    """Tests are held to it too; a table of cases is not a function."""
    none(
        (line for path in sources(*PACKAGES, "tests", "benchmarks") for line in over_budget(path)),
        "Too long: split it by concept",
        f"What must be longer is declared in RAISED of {HERE}, with its reason",
    )


def test_every_module_says_what_it_is() -> None:
    none(
        (name(path) for path in sources(*PACKAGES) if not ast.get_docstring(tree(path))),
        "A module without a docstring",
        "There is no exception: say what it is, and its step in the path",
    )


# The step of a module in the path of a packet of sound (docs/ARCHITECTURE.md), or that it has none.
STEP = re.compile(r"\b[Ss]teps?\s\d+|\b[Nn]ot\sin\sthe\s(packet's\s)?path\b")


def test_every_module_says_its_step_in_the_path() -> None:
    """A reader learns from the first lines of a module where in the path it works."""
    none(
        (name(path) for path in sources(*PACKAGES) if not STEP.search(ast.get_docstring(tree(path)) or "")),
        'A docstring that does not say "Step N.", "Beside step N." or "Not in the path."',
        "There is no exception; the steps are in docs/ARCHITECTURE.md",
    )


# What other people's code imports of a package itself, and the version that the build reads.
GATES = {"voxd/engine/conformance/__init__.py", "shared/__init__.py"}


def test_packages_define_nothing_and_hand_nothing_on() -> None:
    """A reader of an import sees the module in which a name is defined."""
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
    none(
        (line for path in sources(*PACKAGES, "tests") for line in banned(path)),
        "What this tree does without",
        f"BANNED_MODULES, BANNED_NAMES and BANNED_CALLS of {HERE} say what, and why",
    )


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
    """The docstring is the one place that says it, so there is no list of modules to keep beside it."""
    pure = [path for path in sources(*PACKAGES) if is_pure(path)]
    assert len(pure) > 60
    none(
        (f"{name(path)}: {found}" for path in pure if (found := sorted(set(imports(tree(path).body)) & IMPURE))),
        "A module that says *Pure* imports a clock, I/O, a thread, chance or a model",
        f"Move that to its shell, or take the word out of the docstring; IMPURE of {HERE} is the list",
    )


def sleeps(path: Path) -> Iterator[str]:
    """Calls of anything named sleep, but `asyncio.sleep(0)`: that yields once and waits for no clock."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "sleep":
            only_yields = [arg.value for arg in node.args if isinstance(arg, ast.Constant)] == [0]
            if not only_yields:
                yield f"{name(path)}:{node.lineno}"


def test_no_test_sleeps() -> None:
    """A test waits for what it is about, with a deadline; a sleep is either too short or too long."""
    none(
        (line for path in sources("tests") for line in sleeps(path)),
        "A test that sleeps",
        "There is no exception: wait for the thing itself, with a generous limit",
    )


def blind_excepts(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or dotted(kind) in {"Exception", "BaseException"} for kind in kinds):
                yield f"{name(path)}:{node.lineno}"


def test_only_the_walls_catch_everything() -> None:
    outside = [path for path in sources(*PACKAGES) if name(path) not in WALLS]
    none(
        (line for path in outside for line in blind_excepts(path)),
        "Everything is caught: name the exceptions that are meant",
        f"A place that must catch whatever comes is declared in WALLS of {HERE}, with its reason",
    )
    without = [path for path in WALLS if not any(blind_excepts(ROOT / path))]
    none(without, "A wall that catches nothing blindly any more", f"Take it out of WALLS of {HERE}")


# ---- the contracts of pyproject.toml are complete --------------------------------------------------------------------

# What may load an engine: its own process, and commands that look at engines without a daemon.
LOADS_ENGINES = {"voxd.engine", "voxd.lab", "voxd.commands", "voxd.cli", "voxd.__main__"}
WIRE = {"voxd.messages", "voxd.framing", "voxd.traces"}  # both processes have them; the layers hold them below engines
SCREEN = {"voxtui.screen", "voxtui.cli", "voxtui.__main__"}  # what may import Textual


def contracts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    return found


def children(package: str) -> set[str]:
    """The modules and packages directly below a package."""
    folder = ROOT.joinpath(*package.split("."))
    below = [path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return {f"{package}.{path.stem}" for path in below if path.stem != "__init__"}


def test_every_room_that_holds_rooms_has_layers_for_all_of_them() -> None:
    """A new room cannot be forgotten: the contract that orders its siblings is exhaustive."""
    folders = [path.parent for path in sources(*PACKAGES) if path.name == "__init__.py"]
    holding = {name(folder).replace("/", ".") for folder in folders if any(folder.glob("*/__init__.py"))}
    ordered = {
        container for contract in contracts() if contract.get("exhaustive") for container in contract["containers"]
    }
    none(
        sorted(holding - ordered - {"voxtui.screen"}),  # its one room, the widgets, is below its modules
        "A package that holds packages and has no exhaustive contract of layers",
        "Add one to [tool.importlinter] in pyproject.toml",
    )


@pytest.mark.parametrize(
    ("contract", "package", "exempt"),
    [
        ("The gateway never loads an engine", "voxd", LOADS_ENGINES | WIRE),
        ("The headless client does not pay for the screen", "voxtui", SCREEN),
    ],
)
def test_a_contract_that_forbids_an_import_names_every_room(contract: str, package: str, exempt: set[str]) -> None:
    """Every room that is not exempt here must be listed."""
    listed = next(set(each["source_modules"]) for each in contracts() if each["name"] == contract)
    none(
        sorted(children(package) - exempt - listed),
        f'Not in source_modules of "{contract}" in pyproject.toml',
        f"Add it there; what may import it is declared in LOADS_ENGINES or SCREEN of {HERE}",
    )


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
    """Not even indirectly: every connection pays for what the gateway imports."""
    loaded = loaded_after("import voxd.app")
    assert loaded & {"torch", "onnxruntime", "ctranslate2", "faster_whisper", "transformers"} == set()
