"""Tests of `voxd.engine.whisper`."""
