"""A reader who follows a document or a program's advice installs no stranger's package: ours are named by wheel or
address."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import voxd.cli
from shared import __version__, extras

ROOT = Path(__file__).parents[2]
OURS = {"voxd", "voxtui", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]}

INSTALLER = re.compile(
    r"\b(?:pip[\d.]*\s+(?:install|download|wheel)|pipx\s+(?:install|run|inject)|uv\s+(?:pip\s+install|add|tool\s+(?:install|run))"
    r"|uvx|conda\s+install|easy_install|(?:poetry|pdm|rye)\s+add)\b(?P<words>[^\n;&|#`]*)"
)
WORD = re.compile(r""" "[^"]*" | '[^']*' | [^\s"']+ """, re.VERBOSE)
# A requirement that an index answers: a name, extras and versions, and neither a path nor ` @ ` an address.
BARE = re.compile(r"(?P<name>[A-Za-z][\w.-]*?)\s*(\[[^\]]*\])?\s*([=<>!~]=?[^@]*)?")


def bare_installs(text: str) -> Iterator[str]:
    """Each of our names that a command in `text` would ask an index for."""
    for command in INSTALLER.finditer(re.sub(r"\\\n\s*", " ", text)):
        for word in WORD.findall(command["words"]):
            found = BARE.fullmatch(word.strip("\"'(),.\\"))
            if found and re.sub(r"[-_.]+", "-", found["name"]).lower() in OURS:
                yield command[0].strip()


@pytest.mark.parametrize(
    "text",
    [
        "pip install voxd",
        "sudo /opt/voxd/0.1.0/bin/pip install 'voxd[whisper]==0.1.0'",
        'python3 -m pip install --upgrade "voxtui[server]>=0.1"',
        "pip3 install -q numpy Voxtui",
        "pip install \\\n    voxtui",
        "run `pip install voxd`, then",
        "raise Missing('pip install voxd[webrtc]')",
        "uv pip install voxtui~=0.1",
        "uv tool install voxtui",
        "uvx voxtui connect",
        "pipx install voxd && voxd start",
        "ExecStartPre=/usr/bin/pip install voxtui==0.1",
    ],
)
def test_a_bare_name_is_found(text: str) -> None:
    assert list(bare_installs(text))


@pytest.mark.parametrize(
    "text",
    [
        "pip install .",
        "pip install '.[whisper]'",
        'pip install "./voxtui-0.1.0-py3-none-any.whl[voxtral,whisper]"',
        "pip install dist/voxtui-0.1.0-py3-none-any.whl",
        'pip install "voxtui[whisper] @ git+ssh://git@HOST/PATH.git"',
        "pip install git+https://HOST/voxd.git",
        "pip install --editable /srv/voxd",
        "pip install sounddevice   # which voxtui needs",
        "sudo voxd install --system",
        "pip install numpy && voxd start",
    ],
)
def test_wheels_and_addresses_are_not(text: str) -> None:
    assert list(bare_installs(text)) == []


def test_no_document_program_or_unit_installs_by_a_bare_name() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    found: dict[str, list[str]] = {}
    read = 0
    for name in listed.decode().split("\0")[:-1]:
        path = ROOT / name
        if path.is_dir() or path.resolve() == Path(__file__).resolve() or b"\0" in (data := path.read_bytes()):
            continue
        read += 1
        text = data.decode("utf-8")
        bad = [
            *bare_installs(text),
            *re.findall(r"\bvoxd\[\w+[^\]\n]*\][^\n]{0,20}", text if path.suffix != ".py" else ""),
        ]
        if bad:
            found[name] = bad
    assert found == {}
    assert read > 300


def test_the_extras_name_this_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[\[=<>~! ]", each)[0] for many in project["optional-dependencies"].values() for each in many}
    assert project["name"] == extras.DISTRIBUTION
    assert named & OURS == {extras.DISTRIBUTION}


def test_the_documents_name_the_wheel_of_this_version() -> None:
    assert f"voxtui-{__version__}-py3-none-any.whl" == extras.WHEEL
    for name in ("README.md", "docs/ec2.md", "systemd/README.md", "docs/TRANSPORTS.md"):
        assert extras.WHEEL in (ROOT / name).read_text(), name


# ── what a program advises ──────────────────────────────────────────────────────────────────────────────────────────


def test_advice_names_the_place_that_this_installation_came_from(tmp_path: Path) -> None:
    tree, wheel = tmp_path / "a tree", tmp_path / extras.WHEEL
    tree.mkdir()
    wheel.touch()
    advice = {
        "tree": ({"url": tree.as_uri(), "dir_info": {"editable": True}}, f"--editable '{tree}[x]'"),
        "folder": ({"url": tree.as_uri(), "dir_info": {}}, f"'{tree}[x]'"),
        "wheel": ({"url": wheel.as_uri(), "archive_info": {}}, f"'{wheel}[x]'"),
        "gone": ({"url": (tmp_path / "gone.whl").as_uri(), "archive_info": {}}, f"'./{extras.WHEEL}[x]'"),
        "web": ({"url": "https://host/v.whl", "archive_info": {}}, "'voxtui[x] @ https://host/v.whl'"),
        "git": (
            {"url": "https://host/v.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            "'voxtui[x] @ git+https://host/v.git@c0ffee'",
        ),
        "unknown": ({}, f"'./{extras.WHEEL}[x]'"),
    }
    for origin, wanted in advice.values():
        assert extras._requirement(origin, "x", extras.DISTRIBUTION) == wanted
        assert list(bare_installs(f"pip install {wanted}")) == []
    assert extras._requirement({}, "x", "voxd-parrot") == "'voxd-parrot[x]'"  # somebody else's, from an index


def test_this_installation_gives_advice_that_pip_understands() -> None:
    command = extras.how_to_install("server")
    assert command.startswith("pip install ")
    assert list(bare_installs(command)) == []
    offline = ["--dry-run", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "install", *offline, *shlex.split(command)[2:]]
    done = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_daemon_without_its_packages_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is installed without the packages of the daemon, and `voxd start` is there all the same."""
    monkeypatch.setattr(extras, "SERVER", (*extras.SERVER, "nobody_has_this"))
    done = CliRunner().invoke(voxd.cli.main, ["start", "--check"])
    assert done.exit_code == 78
    assert "needs nobody_has_this; install it with: pip install" in done.output
    assert "[server]" in done.output
