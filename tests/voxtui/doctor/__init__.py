"""Tests of `voxtui.doctor`."""
