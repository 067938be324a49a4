"""Fetching a model: from a folder for real, from the hub with a scripted hub."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from tests.support.tiny_voxtral import folder
from voxd.commands import pull
from voxd.commands.pull import CannotPull, check_room, take
from voxd.engine.gpu.weights import weights_absent
from voxd.engine.llama.weights import find_weights

LOAD = """
import sys, torch
from voxd.engine.realtime.model import RealtimeCheckpoint
print(RealtimeCheckpoint.load(sys.argv[1], "cpu", torch.float32, lambda text: None).script.pad)
"""


def quiet(text: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_model_from_a_folder_is_found_by_its_name(home: Path) -> None:
    done = take("me/tiny", folder(0), quiet)
    assert done.size > 100_000
    again = take("me/tiny", folder(0), quiet)
    assert (again.size, again.revision) == (0, done.revision), "what is there is not copied again"
    assert weights_absent("me/tiny", {"HF_HUB_CACHE": str(home)}) is None


@pytest.mark.slow
def test_it_is_loaded_by_its_name_without_internet(home: Path) -> None:
    take("me/tiny", folder(0), quiet)
    environment = os.environ | {"HF_HOME": str(home.parent), "HF_HUB_OFFLINE": "1"}
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, "me/tiny"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert loaded.stdout == "32\n", loaded.stderr


def test_a_copy_that_broke_off_goes_on(home: Path) -> None:
    whole = take("me/tiny", folder(0), quiet)
    weights = whole.folder / "model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(b"half")
    assert take("me/tiny", folder(0), quiet).size == size
    assert weights.stat().st_size == size


def test_the_makers_own_form_of_the_weights_is_left_out(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    copytree(folder(0), source)
    (source / "consolidated.safetensors").write_bytes(b"the same again")
    assert not (take("me/tiny", source, quiet).folder / "consolidated.safetensors").exists()


@pytest.mark.parametrize(
    ("config", "index", "told"),
    [
        (None, None, "holds no model that voxd can read"),
        ('{"model_type": "llama"}', None, "this is not a Voxtral model but 'llama'"),
        (
            '{"model_type": "voxtral_realtime"}',
            '{"weight_map": {"a": "model-2.safetensors"}}',
            "model-2.safetensors is missing",
        ),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(
    home: Path, tmp_path: Path, config: str | None, index: str | None, told: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"")
    for name, text in (("config.json", config), ("model.safetensors.index.json", index)):
        if text is not None:
            (source / name).write_text(text)
    with pytest.raises(CannotPull, match=told):
        take("me/tiny", source, quiet)
    assert not home.exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "there", 1000)
    with pytest.raises(CannotPull, match=r"9000000\.0 GB do not fit: .* set HF_HOME"):
        check_room(tmp_path, 9 * 10**15)


def test_a_place_that_may_not_be_written_is_told_as_that(tmp_path: Path) -> None:
    """The error is not that the hub cannot be reached."""
    (tmp_path / "file").touch()
    with pytest.raises(CannotPull, match=f"{tmp_path}/file may not be written by this user: set HF_HOME"):
        check_room(tmp_path / "file" / "hub", 1000)


# ── the hub ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def hub(monkeypatch: pytest.MonkeyPatch, home: Path, failure: Exception | None = None) -> list[dict[str, Any]]:
    """A hub that has one model; what it was asked for."""
    asked: list[dict[str, Any]] = []

    def download(**which: Any) -> Any:
        asked.append(which)
        if failure is not None:
            raise failure
        if which.get("dry_run"):
            names = {"config.json": 300, "model.safetensors": 5000}
            return [
                SimpleNamespace(filename=name, file_size=size, will_download=True, commit_hash="c0ffee")
                for name, size in names.items()
            ]
        target = home / "models--me--tiny" / "snapshots" / which["revision"]
        copytree(folder(0), target, dirs_exist_ok=True)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_one_revision_is_fetched_and_pinned(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, home)
    told: list[str] = []
    done = pull.pull("me/tiny", "v1", told.append)
    assert [each["revision"] for each in asked] == ["v1", "c0ffee"], "what was listed is what is fetched"
    assert asked[1]["allow_patterns"] == ["*.json", "*.safetensors"], "nothing that could be code"
    assert (done.revision, done.size) == ("c0ffee", 5300)
    assert (home / "models--me--tiny" / "refs" / "main").read_text() == "c0ffee"
    assert told == ["me/tiny, revision c0ffee: 0.0 MB to fetch"]


def trouble(kind: type[Exception]) -> Exception:
    if issubclass(kind, errors.HfHubHTTPError):
        return kind("no", response=SimpleNamespace(headers={}, request=None))  # type: ignore[call-arg]
    return kind("no")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (errors.GatedRepoError, "accept its licence .* HF_TOKEN"),
        (errors.RepositoryNotFoundError, "the hub has no 'me/tiny' for you"),
        (errors.RevisionNotFoundError, "me/tiny has no revision 'v1'"),
        (errors.LocalEntryNotFoundError, "--from DIR"),
        (ConnectionError, "run the same command again to go on"),
        (errors.HFValidationError, "is not the name of a repository"),
    ],
)
def test_what_goes_wrong_at_the_hub_is_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], told: str
) -> None:
    hub(monkeypatch, home, trouble(kind))
    with pytest.raises(CannotPull, match=told):
        pull.pull("me/tiny", "v1", quiet)


# ── a GGUF file ─────────────────────────────────────────────────────────────────────────────────────────────────────

GGUF = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 20) + b"general.architecture"
GGUF += struct.pack("<IQ", 8, 5) + b"llama"


def files(monkeypatch: pytest.MonkeyPatch, home: Path, *names: str, data: bytes = GGUF) -> list[dict[str, Any]]:
    """A hub whose repository has these files; what it was asked for."""
    asked: list[dict[str, Any]] = []

    def download(**which: Any) -> Any:
        asked.append(which)
        wanted = [name for name in names if fnmatch(name, which["allow_patterns"][0])]
        if which.get("dry_run"):
            return [
                SimpleNamespace(filename=name, file_size=10, will_download=True, commit_hash="c0ffee")
                for name in wanted
            ] or [SimpleNamespace(filename="README.md", file_size=1, will_download=True, commit_hash="c0ffee")]
        target = home / "models--me--tiny" / "snapshots" / which["revision"]
        target.mkdir(parents=True)
        for name in wanted:
            (target / name).write_bytes(data)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_gguf_file_is_fetched_alone_and_found_by_the_same_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = files(monkeypatch, home, "tiny-q4.gguf", "tiny-q8.gguf", "code.py")
    pull.pull("me/tiny:tiny-q4.gguf", None, quiet)
    assert asked[1] == {"repo_id": "me/tiny", "allow_patterns": ["tiny-q4.gguf"], "revision": "c0ffee"}
    found = find_weights("me/tiny:tiny-q4.gguf", {"HF_HUB_CACHE": str(home)})
    assert found.read_bytes() == GGUF


def test_all_parts_of_a_gguf_file_are_fetched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [f"big-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    files(monkeypatch, home, *parts, "big-00001-of-00002.gguf")
    done = pull.pull(f"me/tiny:{parts[0]}", None, quiet)
    assert sorted(path.name for path in done.folder.iterdir()) == parts


@pytest.mark.parametrize(
    ("file", "data", "told"),
    [("other.gguf", GGUF, "has no file 'other.gguf'"), ("tiny.gguf", b"<html>", "cannot be used: it is no GGUF file")],
)
def test_a_gguf_file_that_is_not_there_or_is_none_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, file: str, data: bytes, told: str
) -> None:
    files(monkeypatch, home, "tiny.gguf", data=data)
    with pytest.raises(CannotPull, match=told):
        pull.pull(f"me/tiny:{file}", None, quiet)
