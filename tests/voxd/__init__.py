"""Tests of `voxd`."""
