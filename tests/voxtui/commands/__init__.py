"""Tests of `voxtui.commands`."""
