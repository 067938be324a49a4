"""Everything with a time in it: `python -m benchmarks`, or one module by its name.  Prints, and asserts nothing."""
