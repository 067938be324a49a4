"""The daemon: a gateway process that owns sockets, sessions and turns, and an engine process that owns the models.

Steps 3 to 11 of a packet's path.  Begin with docs/ARCHITECTURE.md; `app` makes everything and ties it together.
"""
