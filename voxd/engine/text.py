"""Turns token ids into text that is only ever appended to.  Step 8, for engines that generate.

Pure: ids in, strings out.  It knows no model, no audio and no stream; the vocabulary is given as the bytes of each id,
none for control tokens.

A token may end in the middle of a character, and control tokens may stand between its bytes: so bytes are decoded
incrementally, and a control token flushes nothing.  Bytes that never become a character are replaced at the end.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from voxd.engine.agreement import align, split


class Writer:
    """The text of one utterance or answer; `text` is all of it so far.

    `said`: what a client holds already (after an engine loss); it counts as written and is not given out again.
    Only white space before the first word is left out: a text does not begin with a space."""

    def __init__(self, pieces: Sequence[bytes], said: str = "") -> None:
        self.text = said
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._again: str | None = "" if said else None  # what has come of `said` so far; None: we are beyond it

    def write(self, token_ids: Iterable[int]) -> str:
        """The new text that these token ids complete."""
        return self._append(self._utf8.decode(self._bytes(token_ids)), last=False)

    def finish(self) -> str:
        """The rest of the text: no more token ids come."""
        return self._append(self._utf8.decode(b"", True), last=True)

    def guess(self, token_ids: Iterable[int]) -> str:
        """What `write` would return; nothing changes."""
        if self._again is not None:
            return ""
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        utf8.setstate(self._utf8.getstate())
        new = utf8.decode(self._bytes(token_ids))
        return new if self.text else new.lstrip()

    def _bytes(self, token_ids: Iterable[int]) -> bytes:
        return b"".join(self._pieces[each] for each in token_ids)

    def _append(self, new: str, *, last: bool) -> str:
        if self._again is not None:
            new = self._beyond(self._again + new, last=last)
        elif not self.text:
            new = new.lstrip()
        self.text += new
        return new

    def _beyond(self, again: str, *, last: bool) -> str:
        """The part of the repeated text that goes beyond `said`.  The same audio gives the same text; where another
        batch or device rounded differently, the words are aligned as soon as there are more than were said."""
        again = again.lstrip()
        if again.startswith(self.text):
            self._again = None
            return again[len(self.text) :]
        said, words = split(self.text), split(again)
        if not last and (self.text.startswith(again) or len(words) <= len(said)):
            self._again = again
            return ""
        self._again = None
        return "".join(words[align(said, words)[1] :])
