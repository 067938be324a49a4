"""Tests of `voxd.engine.gpu`."""
