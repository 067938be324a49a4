"""Makes the text of others safe for a terminal; all of it passes here.  Step 12.

Model text, names and error messages may hold escape sequences: they could set the clipboard, retitle the window or make
the terminal type an answer into the program.

Pure and stateless: because no ESC ever passes, a sequence that was split over two deltas cannot join again afterwards.
It does not know who wrote a text.
"""

from __future__ import annotations

import re

LIMIT = 100_000  # characters of one text; the longest answer, 4096 tokens, has about 20 000

# A whole sequence goes, not its ESC alone, or its parameters would remain as garbage.
_STRING = (
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c|\Z)"  # OSC DCS SOS PM APC, up to BEL, ST or the end
)
_CONTROL = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: parameters, intermediates, final
_SHORT = r"\x1b[ -/]*[0-~]"  # the other escapes of two or three characters
_SEQUENCE = re.compile(f"{_STRING}|{_CONTROL}|{_SHORT}", re.DOTALL)

# Marks that right-to-left text uses rightly but that are invisible go quietly; separators are line ends.
_QUIET = {**dict.fromkeys(map(ord, "\u061c\u200e\u200f\ufeff")), 0x2028: "\n", 0x2029: "\n"}

# What remains and still acts on a terminal or on the order of reading: controls but \n and \t, bidirectional embeddings
# and overrides, annotation marks, lone surrogates, invisible tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def safe_text(text: str, limit: int | None = LIMIT) -> str:
    """The text without anything that acts on a terminal; newline and tab stay, line ends become \\n.

    Idempotent, and safe under concatenation of its results."""
    text = text[:limit].replace("\r\n", "\n").replace("\r", "\n")
    return _UNSAFE.sub(REPLACEMENT, _SEQUENCE.sub("", text)).translate(_QUIET)


def safe_line(text: str) -> str:
    """The same on one line, for status lines and names."""
    return " ".join(safe_text(text).split())
