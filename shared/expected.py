"""What a setting takes and what was given instead, in words.  Not in the packet's path.

Pure.  The settings file and the options of engines are refused in the same words.  It knows the types of msgspec; not
which setting is meant, nor where it was set.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from msgspec import inspect


def shown(value: object) -> str:
    """A value inside an error line: short, and nothing that a terminal would obey."""
    match value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def allowed(info: inspect.Type) -> str:
    """What a field takes, in words."""
    match info:
        case inspect.Metadata(extra_json_schema={"description": str(text)}):
            return text
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "text"
        case inspect.IntType(ge=low, le=high):
            return f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
        case inspect.FloatType(gt=low, lt=high):
            return f"a number above {low} and below {high}"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
        case inspect.VarTupleType(item_type=item):
            return f"a list, each item {allowed(item)}"
        case inspect.UnionType(types=types):
            return " or ".join("null" if isinstance(kind, inspect.NoneType) else allowed(kind) for kind in types)
    return "a mapping"


def unknown(key: str, known: Iterable[str]) -> str:
    """What is wrong with a key that none of `known` is."""
    keys = list(known)
    meant = difflib.get_close_matches(key[:64], keys, n=1)
    hint = f" (did you mean {meant[0]}?)" if meant else ""
    return f"unknown key{hint}; allowed here: {', '.join(keys)}"
