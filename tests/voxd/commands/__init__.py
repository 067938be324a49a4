"""Tests of `voxd.commands`."""
