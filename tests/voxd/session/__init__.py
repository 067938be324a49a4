"""Tests of `voxd.session`."""
