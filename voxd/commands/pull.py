"""`voxd pull MODEL`: fetches a model once, so that nothing is downloaded when voxd starts.

From the Hugging Face hub into its usual cache: only what transformers reads (safetensors and JSON) of a repository, or
the GGUF file that REPO:FILE names with all its parts; of one revision, going on where an interrupted
download stopped.  Or from a folder that was carried here, for machines without internet.
Not in the path.  It knows files; not what is in them, beyond the kind of model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxd.engine.llama.weights import repository

WANTED = ["*.json", "*.safetensors"]
UNWANTED = ["consolidated*", "*/*"]  # the same weights in their maker's own form; other things of a repository
ROOM = 1 << 30  # bytes that are to stay free


class CannotPull(Exception):
    """The model cannot be had; the text says why and what to do, for people."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that is on this machine now: its folder and revision."""

    folder: Path
    revision: str
    size: int  # bytes that were fetched or copied


def size_text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def check_room(folder: Path, size: int) -> None:
    """Raises CannotPull if so many bytes do not fit there, or this user may not write there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise CannotPull(f"{there} may not be written by this user: set HF_HOME to a folder that is yours")
    free = shutil.disk_usage(there).free
    if size + ROOM > free:
        raise CannotPull(
            f"{size_text(size)} do not fit: {size_text(free)} are free at {there}; "
            f"make room, or set HF_HOME to a folder on a larger disk"
        )


def pull(model: str, revision: str | None, say: Callable[[str], None]) -> Pulled:
    """Fetches a model from the hub; HF_TOKEN is used where it is needed.  Raises CannotPull."""
    if (named := repository(model)) is not None:
        found = _fetch(
            named[0], {"allow_patterns": [_parts(named[1])]}, lambda names: _check_file(*named, names), revision, say
        )
        _check_gguf(found.folder / named[1])
    else:
        which = {"allow_patterns": WANTED, "ignore_patterns": UNWANTED}
        found = _fetch(model, which, lambda names: _check_names(model, names), revision, say)
        _check_kind(found.folder)
    _pin(found.folder.parent.parent, found.revision)
    return found


def _fetch(
    model: str,
    patterns: dict[str, list[str]],
    check: Callable[[list[str]], None],
    revision: str | None,
    say: Callable[[str], None],
) -> Pulled:
    """Fetches the files of these patterns; `check` raises CannotPull for their names, before anything is fetched."""
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    which: dict[str, Any] = {"repo_id": model, **patterns}
    try:
        listed = snapshot_download(**which, revision=revision, dry_run=True)
        size = sum(file.file_size or 0 for file in listed if file.will_download)
        check([file.filename for file in listed])
        check_room(Path(HF_HUB_CACHE), size)
        pinned = listed[0].commit_hash
        say(f"{model}, revision {pinned[:12]}: {size_text(size)} to fetch")
        found = Path(snapshot_download(**which, revision=pinned))
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise CannotPull(
            f"the hub has no {model!r} for you: check the name, accept its licence on its page, and set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CannotPull(f"{model} has no revision {revision!r}") from error
    except errors.HFValidationError as error:
        raise CannotPull(
            f"{model!r} is not the name of a repository, such as mistralai/Voxtral-Mini-4B-Realtime-2602"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise CannotPull(
            "the hub cannot be reached or broke off; run the same command again to go on, or fetch the files "
            f"elsewhere and use --from DIR ({str(error).splitlines()[0]})"
        ) from error
    return Pulled(found, pinned, size)


def _parts(file: str) -> str:
    """A pattern for a GGUF file and, if it is the first of several parts, the others."""
    return re.sub(r"-00001-of-(\d{5})\.gguf$", r"-*-of-\1.gguf", file)


def _check_file(repo: str, file: str, names: Iterable[str]) -> None:
    if file not in set(names):
        raise CannotPull(f"{repo} has no file {file!r}: its page on the hub lists the files that it has")


def _check_gguf(path: Path) -> None:
    from voxd.engine.llama.gguf import NotGguf, read_header

    try:
        read_header(path)
    except NotGguf as reason:
        raise CannotPull(f"{path.name} was fetched and cannot be used: {reason}") from None


def _pin(home: Path, revision: str) -> None:
    """Makes it the revision that transformers finds under the model's name without asking the hub."""
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(revision)


def take(model: str, source: Path, say: Callable[[str], None]) -> Pulled:
    """Copies a model from a folder into the hub's cache, under its name.  Raises CannotPull."""
    from huggingface_hub.constants import HF_HUB_CACHE

    files = sorted(
        path for pattern in WANTED for path in source.glob(pattern) if not path.name.startswith("consolidated")
    )
    _check_names(str(source), [path.name for path in files])
    _check_kind(source)
    _check_whole(source)
    stamp = hashlib.sha1(
        "".join(f"{path.name} {path.stat().st_size}\n" for path in files).encode(), usedforsecurity=False
    )
    home = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    target = home / "snapshots" / stamp.hexdigest()
    missing = [path for path in files if not _is_copy(path, target / path.name)]
    size = sum(path.stat().st_size for path in missing)
    check_room(target, size)
    say(f"{size_text(size)} to copy")
    target.mkdir(parents=True, exist_ok=True)
    for path in missing:
        part = target / f"{path.name}.part"
        shutil.copyfile(path, part)
        os.replace(part, target / path.name)
    _pin(home, target.name)
    return Pulled(target, target.name, size)


def _is_copy(path: Path, copy: Path) -> bool:
    return copy.exists() and copy.stat().st_size == path.stat().st_size


def _check_names(where: str, names: Iterable[str]) -> None:
    found = set(names)
    if "config.json" not in found or not any(name.endswith(".safetensors") for name in found):
        raise CannotPull(f"{where} holds no model that voxd can read: config.json and safetensors are needed")


def _check_kind(folder: Path) -> None:
    kind = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    if kind not in ("voxtral", "voxtral_realtime"):
        raise CannotPull(f"this is not a Voxtral model but {kind!r}; voxd has no engine for it")


def _check_whole(folder: Path) -> None:
    """Raises CannotPull if a file is missing that the index of the weights names."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        if missing := sorted(name for name in named if not (folder / name).exists()):
            raise CannotPull(f"{folder} is incomplete: {', '.join(missing)} is missing")
