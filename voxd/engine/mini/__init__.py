"""Voxtral Mini: conversations whose answers are begun before the turn is over.  Steps 7 and 8.

Must not import its siblings.  Begin with `conversation` (pure), then `engine`, `scheduler` and `model`, where a token
is chosen.
"""
