"""Where sound comes from: the microphone, a file, silence.  Step 1.

Knows nothing of links and sessions.  Begin with `sources`.
"""
