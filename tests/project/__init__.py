"""Tests of the project itself: its architecture, and whether its documents are true."""
