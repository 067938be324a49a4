"""Reads the options of an engine by the types that it declares.  Not in the packet's path.

Pure: what the settings file says in, a struct out, or what is wrong with it in the words of the settings file.  It does
not know what any option does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, TypeVar, get_type_hints

import msgspec
from msgspec import inspect, structs

from shared.expected import allowed, shown, unknown
from voxd.engine.contract import Unusable

T = TypeVar("T", bound=msgspec.Struct)
SECRET = {"secret": True}  # as `extra` of a Meta: people put passwords there by mistake, so the value is never shown
_THE_MODELS_OWN = "it is the model's own, and the weights were made with it"
# What people know from other programs, and why no engine can offer it.
_FIXED = dict.fromkeys(("n_mels", "hop_length", "n_fft", "sample_rate"), _THE_MODELS_OWN)


def read(engine: str, kind: type[T], given: Mapping[str, object]) -> T:
    """The options of this engine as a `kind`.  Raises Unusable; its text names the option and what is right."""
    known = [field.name for field in structs.fields(kind)]
    types = get_type_hints(kind, include_extras=True)
    values = {}
    for key, value in given.items():
        if key in _FIXED:
            raise Unusable(f"engine_options.{engine}.{key} cannot be set: {_FIXED[key]}")
        if key not in known:
            raise Unusable(f"engine_options.{engine}.{key}: {unknown(key, known)}")
        try:
            values[key] = msgspec.convert(value, types[key], strict=True)
        except msgspec.ValidationError:
            refuse(engine, kind, key, value)
    return kind(**values)


def refuse(engine: str, kind: type[msgspec.Struct], key: str, value: object) -> NoReturn:
    """Raises Unusable for a value that this option does not take."""
    info = inspect.type_info(get_type_hints(kind, include_extras=True)[key])
    got = "" if _is_secret(info) else f", got {shown(value)}"
    raise Unusable(f"engine_options.{engine}.{key}: expected {allowed(info)}{got}") from None


def _is_secret(info: inspect.Type) -> bool:
    if isinstance(info, inspect.UnionType):
        return any(map(_is_secret, info.types))
    return isinstance(info, inspect.Metadata) and bool((info.extra or {}).get("secret"))
