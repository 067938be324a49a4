"""One session as the client sees it: the run of it, the transcript, the figures, what is saved.  Step 12.

Imports the link and the sources.  Begin with `run`; `transcript` and `meter` are pure.
"""
