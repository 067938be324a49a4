"""Reads config.yaml, or no file at all, into one frozen `Settings`.  Not in the packet's path.

Errors name their place:

    config.yaml:12:3: streaming.latency_target_ms: expected an integer of at least 1, got 'fast'

The file may be hostile or broken: plain YAML only (scalars by the core schema of YAML 1.2, so `no` is a word and not
false), no tags, anchors, aliases or duplicate keys, 64 KiB and 8 levels at most.

It does not know what a setting does.

`VOXD_VAD_THRESHOLD=0.7` overrides `vad.threshold`: the path in capitals, the value in YAML; empty counts as unset.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
import yaml
from msgspec import inspect, structs

from shared.expected import allowed, shown, unknown
from shared.settings import Settings, contradictions, socket_path

T = TypeVar("T", bound=msgspec.Struct)
MAX_BYTES = 64 * 1024
MAX_DEPTH = 8  # levels: our own keys end at 3, engine options may nest a little
SYSTEM_CONFIG = Path("/etc/voxd/config.yaml")
SYSTEM_SOCKET = Path("/run/voxd/voxd.sock")
SYSTEM_CREDENTIAL = Path("/etc/voxd/credentials/api-token")  # for root; the service gets a copy of its own
# Read by the programs themselves.  Any other VOXD_* that is no setting is probably a spelling mistake.
OTHER_VARIABLES = frozenset({"VOXD_CONFIG", "VOXD_TOKEN", "VOXD_EAGER", "VOXD_REQUIRE_SYSTEMD"})


class ConfigError(Exception):
    """A setting or a path that cannot be used; the text is for people and names its place."""


class Loaded(NamedTuple):
    """Settings, the file they came from (None: defaults), and lines to show to the user."""

    settings: Settings
    source: Path | None
    warnings: tuple[str, ...]


def load(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Reads `path` (it must exist), else the first file of the search order, else takes defaults; then the environment.

    Search order: $VOXD_CONFIG (must exist), /etc/voxd/config.yaml, $XDG_CONFIG_HOME or ~/.config /voxd/config.yaml.
    Raises ConfigError; it knows the first thing that is wrong.
    """
    if path is None and environ.get("VOXD_CONFIG"):
        path = Path(environ["VOXD_CONFIG"])
    source = path or next((place for place in _search_order(environ) if os.path.isfile(place)), None)
    root = _compose(_read(source), str(source)) if source else None
    overrides, warnings = _overrides(environ)
    return Loaded(_Reader(overrides).settings(root), source, warnings)


def read_file(path: Path, kind: type[T]) -> T:
    """Reads a settings file into a struct of `kind`, as strictly as `load`.  Raises ConfigError."""
    result: T = _Reader({}).section(kind, _compose(_read(path), str(path)), "")
    return result


# ---- bytes -> text -> nodes -----------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path}: not a regular file")
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: more than {MAX_BYTES // 1024} KiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        good = data[: error.start].decode("utf-8")
        _refuse(_mark(str(path), good, len(good)), f"byte 0x{data[error.start]:02X} is not UTF-8")


class _Variable(str):
    """The name of an environment variable, which stands where a file has name:line:column."""


def _mark(name: str, text: str, index: int) -> yaml.Mark:
    line, column = text.count("\n", 0, index), index - (text.rfind("\n", 0, index) + 1)
    return yaml.Mark(name, index, line, column, None, 0)


def _refuse(mark: yaml.Mark, what: str) -> NoReturn:
    where = mark.name if isinstance(mark.name, _Variable) else f"{mark.name}:{mark.line + 1}:{mark.column + 1}"
    raise ConfigError(f"{where}: {what}")


class _Loader(yaml.SafeLoader):
    """A YAML loader that composes nodes only.  Every scalar stays text, which `_scalar` reads."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (declared without ClassVar in the stubs of the base)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # bare in the stubs
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            _refuse(event.start_mark, "anchors and aliases are not allowed")
        if event.tag is not None:
            _refuse(event.start_mark, "tags are not allowed")
        if self.depth >= MAX_DEPTH:
            _refuse(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _compose(text: str, name: str) -> yaml.Node | None:
    """The root node, None for an empty document; ConfigError for what is not plain YAML."""
    start = _mark(name, text, 0)
    try:
        loader = _Loader(text)
        loader.name = name
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        here = _mark(name, text, error.position)
        _refuse(here, f"the character U+{ord(text[error.position]):04X} is not allowed")
    except yaml.MarkedYAMLError as error:
        hint = " (indent with spaces, not with tabs)" if r"'\t'" in str(error.problem) else ""
        _refuse(error.problem_mark or error.context_mark or start, f"{error.problem}{hint}")
    except (RecursionError, ValueError, OverflowError) as error:  # e.g. "\UFFFFFFFF" is no character
        _refuse(start, f"not readable as YAML: {error}")


# ---- nodes -> values ------------------------------------------------------------------------------------------------

_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _scalar(node: yaml.ScalarNode) -> object:
    """The value of a scalar: None, bool, int, finite float or str; a quoted one is str."""
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        _refuse(node.start_mark, "half a surrogate pair is not text")
    if node.style is not None:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _pairs(node: yaml.MappingNode, path: str) -> Iterator[tuple[str, yaml.Mark, yaml.Node]]:
    """The pairs of a mapping as (key, place of the key, value).  Keys are text and unique."""
    seen: dict[str, int] = {}
    for key_node, value in node.value:
        key = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            _refuse(key_node.start_mark, f"{path}: a key must be text; put it in quotes".removeprefix(": "))
        if key in seen:
            _refuse(key_node.start_mark, f"{_join(path, key)}: duplicate key, first in line {seen[key]}")
        seen[key] = key_node.start_mark.line + 1
        yield key, key_node.start_mark, value


def _plain(node: yaml.Node, path: str) -> object:
    """A node as dicts, lists and scalars."""
    if isinstance(node, yaml.MappingNode):
        return {key: _plain(value, _join(path, key)) for key, _, value in _pairs(node, path)}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node)


def _join(path: str, key: str) -> str:
    return f"{path}.{key if key.isidentifier() and key.isascii() else shown(key)}".lstrip(".")


class _Reader:
    """Walks nodes and `Settings` side by side, so that the error for a value can name its place."""

    def __init__(self, overrides: Mapping[str, yaml.Node]) -> None:
        self._overrides = overrides  # path -> node, instead of what the file says
        self._marks: dict[str, yaml.Mark] = {}  # path -> where it was set

    def settings(self, root: yaml.Node | None) -> Settings:
        result: Settings = self.section(Settings, root, "")
        for paths, what in contradictions(result):
            # One of them is not a default, for the defaults agree.
            place, mark = next((path, self._marks[path]) for path in paths if path in self._marks)
            _refuse(mark, f"{place}: {what}")
        return result

    def section(self, kind: type[Any], node: yaml.Node | None, path: str) -> Any:
        """A struct of `kind` from a mapping; an absent or empty one gives defaults."""
        known = {field.name: field for field in structs.fields(kind)}
        given = dict(self._checked(node, path, known))
        values = {}
        for name, field in known.items():
            place = _join(path, name)
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                values[name] = self.section(field.type, given.get(name), place)
            elif (value := self._override(place) or given.get(name)) is not None:
                values[name] = self._leaf(field.type, value, place)
        return kind(**values)

    def _checked(self, node: yaml.Node | None, path: str, known: Iterable[str]) -> Iterator[tuple[str, yaml.Node]]:
        """The pairs of a section.  Raises ConfigError for what is no mapping, and for unknown keys."""
        if node is None or (isinstance(node, yaml.ScalarNode) and _scalar(node) is None):
            return
        if not isinstance(node, yaml.MappingNode):
            what = f"expected a mapping with the keys {', '.join(known)}; got {shown(_plain(node, path))}"
            _refuse(self._marks.get(path, node.start_mark), f"{path}: {what}".removeprefix(": "))
        for key, mark, value in _pairs(node, path):
            if key not in known:
                _refuse(mark, f"{_join(path, key)}: {unknown(key, known)}")
            self._marks[_join(path, key)] = mark
            yield key, value

    def _override(self, place: str) -> yaml.Node | None:
        node = self._overrides.get(place)
        if node is not None:
            self._marks[place] = node.start_mark
        return node

    def _leaf(self, kind: Any, node: yaml.Node, place: str) -> object:
        """A value of type `kind`; items of a list or mapping are checked one by one, each with its own place."""
        value = _plain(node, place)
        info = inspect.type_info(kind)
        if isinstance(info, inspect.VarTupleType) and isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self._marks[f"{place}[{i}]"] = item.start_mark
                self._leaf(kind.__args__[0], item, f"{place}[{i}]")
        elif isinstance(info, inspect.DictType) and isinstance(node, yaml.MappingNode) and kind.__args__[1] is not Any:
            for key, mark, item in _pairs(node, place):
                self._marks[_join(place, key)] = mark
                self._leaf(kind.__args__[1], item, _join(place, key))
        try:
            return msgspec.convert(value, kind, strict=True)
        except msgspec.ValidationError:
            _refuse(self._marks[place], f"{place}: expected {allowed(info)}, got {shown(value)}")


# ---- the environment ------------------------------------------------------------------------------------------------


def _leaves(kind: type[Any], path: str) -> Iterator[str]:
    for field in structs.fields(kind):
        place = _join(path, field.name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _leaves(field.type, place)
        else:
            yield place


def _overrides(environ: Mapping[str, str]) -> tuple[dict[str, yaml.Node], tuple[str, ...]]:
    """Nodes by path from VOXD_*, and a line for each variable that is no setting."""
    settings = {"VOXD_" + path.upper().replace(".", "_"): path for path in _leaves(Settings, "")}
    known = [*settings, *OTHER_VARIABLES]
    nodes, warnings = {}, []
    for name, value in sorted(environ.items()):
        if name in settings and value:
            if len(value) > MAX_BYTES:
                raise ConfigError(f"{name}: more than {MAX_BYTES // 1024} KiB")
            node = _compose(value, _Variable(name))
            if node is not None:
                nodes[settings[name]] = node
        elif name.startswith("VOXD_") and name not in known:
            meant = difflib.get_close_matches(name[:80], known, n=1)
            warnings.append(f"{shown(name)[1:-1]}: no such setting" + (f"; did you mean {meant[0]}?" if meant else ""))
    return nodes, tuple(warnings)


# ---- places ---------------------------------------------------------------------------------------------------------


def _home(environ: Mapping[str, str], variable: str, below: str) -> Path | None:
    """$variable if it is absolute (the XDG rule), else HOME/below; None without a home."""
    chosen = Path(environ.get(variable) or ".")
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    return chosen if chosen.is_absolute() else home / below if home.is_absolute() else None


def _search_order(environ: Mapping[str, str]) -> Iterator[Path]:
    yield SYSTEM_CONFIG
    if folder := _home(environ, "XDG_CONFIG_HOME", ".config"):
        yield folder / "voxd" / "config.yaml"


def _systemd(environ: Mapping[str, str], variable: str) -> Path | None:
    """The directory that systemd made for our unit; one inherited from another service is ignored."""
    folders = (Path(part) for part in environ.get(variable, "").split(":"))
    return next((folder for folder in folders if folder.is_absolute() and folder.name == "voxd"), None)


def _state_dir(environ: Mapping[str, str]) -> Path:
    if folder := _systemd(environ, "STATE_DIRECTORY"):
        return folder
    folder = _home(environ, "XDG_STATE_HOME", ".local/state")
    if folder is None:
        raise ConfigError("no home directory for the state: set HOME or XDG_STATE_HOME")
    return folder / "voxd"


def credential_path(environ: Mapping[str, str]) -> Path | None:
    """The token that systemd hands to the unit: in a directory that only the unit's user can enter."""
    folder = Path(environ.get("CREDENTIALS_DIRECTORY") or ".")
    path = folder / SYSTEM_CREDENTIAL.name
    return path if folder.is_absolute() and path.is_file() else None


def token_path(environ: Mapping[str, str]) -> Path:
    """The file of the bearer token when `server.token_file` is auto: the system's for root, else the user's."""
    if os.access(SYSTEM_CREDENTIAL, os.R_OK):
        return SYSTEM_CREDENTIAL
    return _state_dir(environ) / "token"


def runtime_dir(environ: Mapping[str, str]) -> Path:
    """The folder of the daemon's control socket: systemd's for the unit, the login's, or one below the state."""
    if folder := _systemd(environ, "RUNTIME_DIRECTORY"):
        return folder
    login = Path(environ.get("XDG_RUNTIME_DIR") or ".")
    return login / "voxd" if login.is_absolute() else _state_dir(environ) / "run"


def control_socket(environ: Mapping[str, str]) -> Path:
    """Where a daemon started here listens; ConfigError when the path is too long for a socket."""
    try:
        return socket_path(runtime_dir(environ) / "voxd.sock")
    except ValueError as error:
        raise ConfigError(f"{error}; set XDG_RUNTIME_DIR to a shorter one") from None


def client_socket(environ: Mapping[str, str], uid: int | None = None) -> Path:
    """Where a client finds a daemon: the first socket there is, its own user's before the system's.

    The login's directory is tried by its usual name too: a shell without XDG_RUNTIME_DIR (an SSH command, cron) must
    find the daemon that a login started.  With none there: where the user's would be.
    """
    own = control_socket(environ)
    login = Path(f"/run/user/{os.getuid() if uid is None else uid}/voxd/voxd.sock")
    places = (own, login, _state_dir(environ) / "run" / "voxd.sock", SYSTEM_SOCKET)
    return next((place for place in places if _is_socket(place)), own)


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:  # a directory that is not ours to look into
        return False
