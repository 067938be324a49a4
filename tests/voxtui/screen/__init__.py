"""Tests of `voxtui.screen`."""
