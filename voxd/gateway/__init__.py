"""What each client has in this process, and the one engine process that all clients share.  Steps 4, 5, 9 and 11.

May import the session, telemetry and system; never an engine or a route.  Begin with `sessions` (how a session begins
and ends), then `connection` and `engine_host`.
"""
