"""The engine process: models, caches, VAD and the device live here and only here.  Steps 6 to 9.

Begin with `contract` (what an engine is), then `loop` (who is called when).  `registry` finds engines by name; the
folders `realtime`, `mini`, `whisper` and `cascade` are one engine each and must not import one another.
"""
