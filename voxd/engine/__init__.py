"""The engine process: models, caches, VAD and the device live here and only here.

Registry of engines: the entry point group `voxd.engines`.  Names are read without importing anything; an engine is
imported when it was configured.  A plug-in is a package with

    [project.entry-points."voxd.engines"]
    mine = "my_package:MyEngine"          # a subclass of voxd.engine.contract.Engine
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from voxd.engine.contract import Capabilities, Engine, Unusable

GROUP = "voxd.engines"


@dataclass(frozen=True, slots=True)
class Listing:
    """One installed engine for `voxd engines`.  `problem` is why it cannot be used, for people."""

    name: str
    package: str
    capabilities: Capabilities | None
    problem: str | None


def names() -> tuple[str, ...]:
    """Installed engines, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def _find(name: str) -> EntryPoint:
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point
    known = ", ".join(names()) or "none"
    raise Unusable(f"no engine is called '{name}'; installed engines: {known}")


# What importing somebody else's module throws: it is missing or broken, or a library that it loads is.
_AT_IMPORT = (ImportError, AttributeError, OSError, RuntimeError, SyntaxError, TypeError, ValueError)


def _load(point: EntryPoint) -> type[Engine]:
    """Imports one engine.  Raises `Unusable`; its text follows the engine's name."""
    try:
        found = point.load()
    except _AT_IMPORT as error:
        raise Unusable(f"cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise Unusable(f"({point.value}) is not a subclass of voxd.engine.contract.Engine")
    return found


def _lack(cls: type[Engine]) -> str | None:
    missing = cls.missing()
    return f"needs {', '.join(missing)}; {remedy(cls.capabilities)}" if missing else None


def engine_class(name: str) -> type[Engine]:
    """Imports one engine.  Raises `Unusable` if there is none, it does not import, or it needs what is not
    installed."""
    point = _find(name)
    try:
        found = _load(point)
    except Unusable as reason:
        raise Unusable(f"engine '{name}' {reason}") from reason
    if lack := _lack(found):
        raise Unusable(f"engine '{name}' {lack}")
    return found


def remedy(capabilities: Capabilities) -> str:
    """How to get what an engine needs."""
    if capabilities.extra:
        return f'install it with: pip install "voxd[{capabilities.extra}]"'
    return "install these modules"


def listing() -> list[Listing]:
    """All installed engines and what is missing for each; imports them, but loads no model."""
    found = []
    for name in names():
        point = _find(name)
        package = point.dist.name if point.dist else "?"
        try:
            cls = _load(point)
            found.append(Listing(name, package, cls.capabilities, _lack(cls) or cls.absent({})))
        except Unusable as reason:
            found.append(Listing(name, package, None, str(reason)))
    return found
