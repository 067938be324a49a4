"""Tests of `voxd.system`."""
