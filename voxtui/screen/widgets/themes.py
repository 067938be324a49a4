"""Two palettes: warm orange for the person, teal for the machine, and quiet greys.  Step 12.

They do not know where a colour is used.
"""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="voxtui-dark",
    primary="#ff8a5c",
    secondary="#56c8bb",
    accent="#f5c26b",
    success="#7bd88f",
    warning="#f5c26b",
    error="#ff6b81",
    foreground="#e8e6e3",
    background="#14151a",
    surface="#1b1d24",
    panel="#262932",
    dark=True,
)
LIGHT = Theme(
    name="voxtui-light",
    primary="#c8461b",
    secondary="#0b7a70",
    accent="#9a6200",
    success="#2e7d3a",
    warning="#9a6200",
    error="#c0283f",
    foreground="#23252b",
    background="#fbf9f6",
    surface="#f2eee8",
    panel="#e4dfd6",
    dark=False,
)
THEMES = {"dark": DARK, "light": LIGHT}  # by the names that options use
