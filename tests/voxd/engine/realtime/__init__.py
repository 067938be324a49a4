"""Tests of `voxd.engine.realtime`."""
