"""Where sound comes from: the microphone, a file, silence.  Step 1.

This room knows no links and no sessions.  Begin with `sources`.
"""
