"""Tests of `voxd.gateway`."""
