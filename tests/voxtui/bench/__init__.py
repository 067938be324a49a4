"""Tests of `voxtui.bench`."""
