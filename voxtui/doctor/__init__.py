"""`voxtui doctor`: everything between a person's mouth and the model, one line each: good, or what to do about it.

Begin with `command`; `rules` (pure) says what the facts mean, `machine`, `way` and `ear` gather them.
"""
