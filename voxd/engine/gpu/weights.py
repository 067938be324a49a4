"""Whether the modules and weights of a Voxtral are on this machine.  Not in the packet's path.

It looks from outside: nothing heavy is imported, no device is touched.  It knows the hub's cache and folders; not which
model is wanted, nor what for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

# As the options of both Voxtrals name them.
ModelSource = Annotated[str, Meta(min_length=1, description="a repository that `voxd pull` has fetched, or a folder")]
DeviceKind = Literal["auto", "cuda", "cpu"]
NEEDS = ("torch", "transformers", "mistral_common")  # what both Voxtrals import


def weights_absent(model: str, environment: Mapping[str, str]) -> str | None:
    """What is missing of this model, in half a sentence with what to do; None: nothing."""
    return None if _is_here(model, environment) else f"its weights are not here: voxd pull {model}"


def _is_here(model: str, environment: Mapping[str, str]) -> bool:
    """A folder, or a repository in the hub's cache."""
    pinned = hub_cache(environment) / f"models--{model.replace('/', '--')}" / "refs" / "main"
    return (Path(model) / "config.json").exists() or pinned.exists()


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Where `voxd pull` puts models."""
    home = Path(environment.get("HF_HOME") or Path(environment.get("HOME", os.sep)) / ".cache" / "huggingface")
    return Path(environment.get("HF_HUB_CACHE") or home / "hub")
