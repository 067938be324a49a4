"""Tests of `voxd.telemetry`."""
