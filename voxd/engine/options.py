"""The options of an engine, checked key by key.  Pure: what the settings file says in, what is wrong with it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from voxd.engine.contract import Unusable

Checks = Mapping[str, tuple[str, Callable[[object], bool]]]  # key -> what is right, in words and as a question
_THE_MODELS_OWN = "it is the model's own, and the weights were made with it"
# What people know from elsewhere and no engine can offer, and why.
_FIXED = dict.fromkeys(("n_mels", "hop_length", "n_fft", "sample_rate"), _THE_MODELS_OWN)


def check(engine: str, given: Mapping[str, object], checks: Checks) -> None:
    """Raises Unusable; its text names the key, and what is right."""
    for key, value in given.items():
        name = f"engine_options.{engine}.{key}"
        if key in _FIXED:
            raise Unusable(f"{name} cannot be set: {_FIXED[key]}")
        if key not in checks:
            raise Unusable(f"{name} is not known; allowed: {', '.join(checks)}")
        wanted, right = checks[key]
        if isinstance(value, bool) or not right(value):
            raise Unusable(f"{name} must be {wanted}, not {value!r}")
