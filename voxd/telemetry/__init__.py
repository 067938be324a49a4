"""Measurements of turns, for the log, for Prometheus and for clients.  Beside step 11 of a packet's path.

May import the session's types.  Begin with `turn_meter`, which adds times to the facts that a session reports.
"""
