"""Tests of `voxd.engine.cascade`."""
