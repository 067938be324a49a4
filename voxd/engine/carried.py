"""Weights that a package from the index carries: where they lie, and that they are the files they should be.

Not in the packet's path.  Such a package is not trusted: its code is never imported, and each of its files that is used
is compared with a hash.  It does not know what a model is.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from voxd.engine.contract import Unusable


def folder_of(package: str) -> Path | None:
    """Where the package lies; None: it is not installed."""
    spec = importlib.util.find_spec(package)
    return next((Path(each) for each in (spec.submodule_search_locations or ())), None) if spec else None


def check(path: Path, sha256: str, remedy: str) -> None:
    """Compares a file byte for byte.  Raises Unusable with `remedy`, half a sentence that says what to do."""
    found = "missing"
    if path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise Unusable(
            f"{path} is not the file that voxd was tested with (sha256 {found[:16]}, expected {sha256[:16]}): {remedy}"
        )
