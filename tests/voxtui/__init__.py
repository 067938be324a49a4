"""Tests of `voxtui`."""
