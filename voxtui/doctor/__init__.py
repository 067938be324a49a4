"""`voxtui doctor` checks everything between a person's mouth and the model, one line each: good, or what to do.

Not in the path.
Begin with `command`; `rules` (pure) says what the facts mean, `machine`, `way` and `ear` gather them.
"""
