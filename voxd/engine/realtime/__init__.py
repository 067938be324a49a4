"""Voxtral Realtime: live text, a token for each 80 ms of sound.  Steps 7 and 8.

Must not import its siblings.  Begin with `streams` (pure: what is certain, what is said), then `engine`, then `model`.
"""
