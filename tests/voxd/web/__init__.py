"""Tests of `voxd.web`."""
