"""Lets `python -m voxtui` start the command line.  Not in the path."""

from __future__ import annotations

from voxtui.cli import main

if __name__ == "__main__":
    main(prog_name="voxtui")
