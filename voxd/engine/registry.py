"""Finds installed engines by name, in the entry point group `voxd.engines`.  Not in the packet's path.

Names are read without importing anything; an engine is imported when it is configured or listed.  It makes engines and
loads none; it knows no stream.  A plug-in is a package with

    [project.entry-points."voxd.engines"]
    mine = "my_package:MyEngine"          # a subclass of voxd.engine.contract.Engine
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from shared.extras import how_to_install
from voxd.engine.contract import Capabilities, Engine, Unusable
from voxd.messages import Role

GROUP = "voxd.engines"
UNKNOWN = "?"  # instead of the name of a package


@dataclass(frozen=True, slots=True)
class Listing:
    """One installed engine for `voxd engines`.  `problem` is why it cannot be used, for people."""

    name: str
    package: str
    capabilities: Capabilities | None
    problem: str | None


def names() -> tuple[str, ...]:
    """The names of the installed engines, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def _find(name: str) -> EntryPoint:
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point
    known = ", ".join(names()) or "none"
    raise Unusable(f"no engine is called '{name}'; installed engines: {known}")


# What the import of somebody else's module may raise, because it, or a library that it loads, is missing or broken.
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


def _lack(cls: type[Engine], package: str) -> str | None:
    """What must be installed before it can be loaded, and how; None: nothing."""
    missing = cls.missing()
    return f"needs {', '.join(missing)}; {remedy(cls.capabilities, package)}" if missing else None


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else UNKNOWN


def _absent(cls: type[Engine]) -> str | None:
    return None if cls.capabilities.fetches else cls.absent({})


def engine_class(name: str) -> type[Engine]:
    """Imports one engine.  Raises `Unusable` if there is none, it does not import, or it needs what is not
    installed."""
    point = _find(name)
    try:
        found = _load(point)
    except Unusable as reason:
        raise Unusable(f"engine '{name}' {reason}") from reason
    if lack := _lack(found, _package(point)):
        raise Unusable(f"engine '{name}' {lack}")
    return found


def engine_for(role: Role, name: str) -> type[Engine]:
    """Like `engine_class`; raises `Unusable` also for an engine that cannot fill this role."""
    found = engine_class(name)
    if role not in (roles := found.capabilities.roles):
        raise Unusable(f"engine '{name}' cannot fill the role `{role}`; it fills {', '.join(roles)}")
    return found


def make(
    wanted: Mapping[Role, str | None], options: Mapping[str, object], wake: Callable[[], None]
) -> dict[str, Engine]:
    """Engines by name, not yet loaded; one object if both roles name the same.  Raises `Unusable`."""
    made: dict[str, Engine] = {}
    for role, name in wanted.items():
        if name is None:
            continue
        cls, own = engine_for(role, name), options.get(name, {})
        if not isinstance(own, dict):
            raise Unusable(f"engine_options.{name} must be a mapping")
        if name not in made:
            made[name] = cls(own, wake)
    responder = wanted.get("respond")
    if responder and made[responder].capabilities.reads_text and wanted.get("transcribe") is None:
        raise Unusable(f"engine '{responder}' answers what a transcriber writes: set engines.transcribe")
    return made


def remedy(capabilities: Capabilities, package: str) -> str:
    """How to get what an engine needs.  `package`: the distribution that the engine is of; its extra is meant."""
    if capabilities.extra and package != UNKNOWN:
        return f"install it with: {how_to_install(capabilities.extra, package)}"
    return "install these modules"


def listing() -> list[Listing]:
    """All installed engines and what is missing for each; imports them, but loads no model."""
    found = []
    for name in names():
        point = _find(name)
        package = _package(point)
        try:
            cls = _load(point)
            found.append(Listing(name, package, cls.capabilities, _lack(cls, package) or _absent(cls)))
        except Unusable as reason:
            found.append(Listing(name, package, None, str(reason)))
    return found
