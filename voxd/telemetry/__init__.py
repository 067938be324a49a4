"""What is told of turns: figures for the journal, for Prometheus, for clients.  Beside step 11.

May import the session's types.  Begin with `turn_meter`, which puts times to what a session states.
"""
