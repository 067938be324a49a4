"""The embedded engine: Whisper on any CPU, decoded on worker threads.  Steps 7 and 8.

Must not import its siblings.  Begin with `scheduler` (pure: which decode is next), then `engine`.
"""
