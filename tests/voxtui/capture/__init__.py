"""Tests of `voxtui.capture`."""
