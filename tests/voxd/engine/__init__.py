"""Tests of `voxd.engine`."""
