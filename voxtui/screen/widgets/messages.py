"""What a worker tells the screen.  Step 12 of a packet's path.

A worker never touches a widget: it posts one of these, and a handler does.  They do not know who handles them.
"""

from __future__ import annotations

from textual.message import Message


class LevelMeasured(Message):
    """How loud it was at the microphone in the last moment, dBFS."""

    def __init__(self, dbfs: float) -> None:
        super().__init__()
        self.dbfs = dbfs
