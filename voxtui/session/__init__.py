"""One session as the client sees it: the run of it, the transcript, the figures, what is saved.  Step 12.

This room imports the link and the sources, and no screen.  Begin with `run`; `transcript` and `meter` are pure.
"""
