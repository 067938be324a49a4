"""Tests of `voxd.webrtc`."""
