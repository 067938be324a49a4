"""Tests of `voxd.lab`."""
