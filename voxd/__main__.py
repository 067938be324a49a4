"""Lets `python -m voxd` start the command line.  Not in the path."""

from voxd.cli import main

if __name__ == "__main__":
    main()
