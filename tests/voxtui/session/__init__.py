"""Tests of `voxtui.session`."""
