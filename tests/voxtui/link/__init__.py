"""Tests of `voxtui.link`."""
