"""`python -m voxd` is `voxd`."""

from voxd.cli import main

if __name__ == "__main__":
    main()
