"""`python -m voxd` is `voxd`.  Not in the path."""

from voxd.cli import main

if __name__ == "__main__":
    main()
