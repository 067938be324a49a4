"""`python -m voxtui`."""

from __future__ import annotations

from voxtui.cli import main

if __name__ == "__main__":
    main(prog_name="voxtui")
