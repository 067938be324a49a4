"""Tests of `voxd.engine.mini`."""
