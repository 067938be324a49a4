"""A conversation as a chat model reads it: messages of alternating roles.  Step 8, for engines that answer text.

Pure: turns in, messages out.  It knows no model, no server and no limit.
"""

from __future__ import annotations

from collections.abc import Iterable

from voxd.messages import Turn


def messages(context: Iterable[Turn]) -> list[dict[str, str]]:
    """A conversation as a chat server takes it.

    Turns without text are left out.  Neighbours of one role become one message: when a barge-in came before the first
    word of an answer, two turns of the person follow each other, which many chat templates refuse."""
    found: list[dict[str, str]] = []
    for turn in context:
        if not turn.words.strip():
            continue
        if found and found[-1]["role"] == turn.role:
            found[-1]["content"] += f"\n{turn.words}"
        else:
            found.append({"role": turn.role, "content": turn.words})
    return found
