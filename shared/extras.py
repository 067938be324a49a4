"""How to add an extra to this installation: the command that `doctor` and every "is not installed" show.

Not in the packet's path.  It does not know what an extra is for.

This project's packages come as a wheel or from a git address, never by a bare name: on an index the name of a program
may be somebody else's package, and what is advised here is often run as root.  It imports no third party, since it is
used where one is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared import __version__

DISTRIBUTION = "voxtui"
WHEEL = f"{DISTRIBUTION}-{__version__}-py3-none-any.whl"


SERVER = (
    "onnxruntime",
    "prometheus_client",
    "python_multipart",
    "starlette",
    "uvicorn",
)  # in the extra [server]


def missing(modules: Iterable[str]) -> list[str]:
    """Those of the modules that are not installed; nothing is imported."""
    return [name for name in modules if find_spec(name) is None]


def lack(modules: Iterable[str], extra: str) -> str | None:
    """Which of the modules are not installed, as half a sentence, and the command that brings them; None: all are."""
    absent = missing(modules)
    return f"needs {', '.join(absent)}; install it with: {how_to_install(extra)}" if absent else None


def how_to_install(extra: str, distribution: str = DISTRIBUTION) -> str:
    """A shell command that installs what `extra` names, from where this installation came (PEP 610 has recorded it).

    `distribution`: whose extra it is, where it is a plug-in's; one that came from an index is named as it is there."""
    # All that are found: the folder that a build leaves in a tree shadows the real one there, and has no origin.
    recorded = (each.read_text("direct_url.json") for each in distributions(name=distribution))
    origin: dict[str, object] = next((json.loads(text) for text in recorded if text), {})
    return f"pip install {_requirement(origin, extra, distribution)}"


def _requirement(origin: dict[str, object], extra: str, name: str) -> str:
    """`origin`: a direct_url.json.  Without one, or when the file has gone, our wheel is named by its file name, and a
    plug-in by its name on the index that it came from."""
    match origin:
        case {"url": str(url), "vcs_info": {"vcs": str(vcs), "commit_id": str(commit)}}:
            return f"'{name}[{extra}] @ {vcs}+{url}@{commit}'"
        case {"url": str(url)} if url.startswith("file:"):
            path = Path(unquote(urlsplit(url).path))
            if path.exists():
                editable = "--editable " if origin.get("dir_info") == {"editable": True} else ""
                return f"{editable}'{path}[{extra}]'"
        case {"url": str(url)}:
            return f"'{name}[{extra}] @ {url}'"
    return f"'./{WHEEL}[{extra}]'" if name == DISTRIBUTION else f"'{name}[{extra}]'"
