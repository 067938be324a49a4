"""Compares what a client sent with the types of the wire: empty nulls, unknown fields, fields without effect.  Step 5.

Pure.  A part of `shared.events`.  It knows msgspec types, and three rules that hold for all of them:

    null     is "not given", unless the type of its field has a meaning for null (`| None`)
    unknown  fields are left out and named: a client of a later API is served, and warned
    idle     a field whose type says so (`Idle("why")` in its annotation) is kept and echoed, but does nothing here

It does not check values: `msgspec.convert` does, with what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, UNSET, Meta


def Idle(why: str) -> Meta:  # noqa: N802  # reads as the annotation that it makes
    """The annotation of a field that is kept and has no effect; `why` ends the sentence "has no effect here: …"."""
    return Meta(extra={"idle": why})


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the walk over values needs to know of a type.  `alone`: only these objects are of it, so no tag is needed;
    `inner`: the type of the elements of an array."""

    structs: tuple[type[msgspec.Struct], ...]
    alone: bool
    nullable: bool
    inner: _Kind | None


@dataclass(frozen=True, slots=True)
class _Field:
    kind: _Kind
    idle: str
    default: object


def given(tree: Any, struct: type[msgspec.Struct], where: str, unknown: list[str]) -> Any:
    """The part of `tree` (decoded JSON) that type `struct` knows; paths of other fields are added to
    `unknown`."""
    return _walk(tree, _Kind((struct,), True, False, None), where, unknown)


def _walk(tree: Any, kind: _Kind, where: str, unknown: list[str]) -> Any:
    if isinstance(tree, list):
        inner = kind.inner
        return tree if inner is None else [_walk(v, inner, f"{where}[{i}]", unknown) for i, v in enumerate(tree)]
    struct = _struct(kind, tree) if isinstance(tree, dict) else None
    if struct is None:
        return tree
    kept, fields, tag = {}, _fields(struct), struct.__struct_config__.tag_field
    for name, value in tree.items():
        place = f"{where}.{name}" if where else name
        if name == tag:
            kept[name] = value
        elif name not in fields:
            if value is not None:
                unknown.append(place)
        elif value is not None or fields[name].kind.nullable:
            kept[name] = _walk(value, fields[name].kind, place, unknown)
    return kept


def idle(value: msgspec.Struct, where: str) -> Iterator[tuple[str, str]]:
    """(path, why) of each field that was given and has no effect here."""
    for name, field in _fields(type(value)).items():
        found = getattr(value, name)
        if found is UNSET or found is None or found == field.default:
            continue
        if field.idle:
            yield f"{where}.{name}", field.idle
        elif isinstance(found, msgspec.Struct):
            yield from idle(found, f"{where}.{name}")


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, _Field]:
    hints = get_type_hints(struct, include_extras=True)
    return {
        field.name: _Field(
            _kind(hints[field.name]), _why(hints[field.name]), None if field.default is NODEFAULT else field.default
        )
        for field in msgspec.structs.fields(struct)
    }


def _kind(hint: object) -> _Kind:
    members = _members(hint)
    structs = tuple(each for each in members if isinstance(each, type) and issubclass(each, msgspec.Struct))
    others = [each for each in members if each not in (*structs, NoneType, msgspec.UnsetType)]
    inner = next((get_args(each)[0] for each in members if get_origin(each) is tuple), None)
    return _Kind(
        structs, len(structs) == 1 and not others, NoneType in members, None if inner is None else _kind(inner)
    )


def _members(hint: object) -> tuple[object, ...]:
    """The types of a union, without their annotations."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        return tuple(member for each in get_args(hint) for member in _members(each))
    return (hint,)


def _why(hint: object) -> str:
    if get_origin(hint) is not Annotated:
        return ""
    notes = (note.extra or {} for note in get_args(hint)[1:] if isinstance(note, Meta))
    return next((str(note["idle"]) for note in notes if "idle" in note), "")


def _struct(kind: _Kind, tree: dict[str, Any]) -> type[msgspec.Struct] | None:
    """The type of the union that this object is; None if any is allowed, or its tag is unknown (`convert` says so)."""
    if kind.alone:
        return kind.structs[0]
    for each in kind.structs:
        config = each.__struct_config__
        if config.tag_field is not None and tree.get(config.tag_field) == config.tag:
            return each
    return None
