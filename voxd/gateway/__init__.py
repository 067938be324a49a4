"""What one client has in this process, and the one engine process that all clients share.  Steps 4, 5 and 9.

May import the session, telemetry and system; never an engine or a route.  Begin with `connection`, then `engine_host`.
"""
