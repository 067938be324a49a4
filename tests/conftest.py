"""What holds for all tests."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    # Somebody started the tests with nohup.  Programs started here would inherit that, and voxd respects it: reloads
    # would not be heard.  What is handled here is ignored all the same, and is not inherited.
    signal.signal(signal.SIGHUP, lambda *_: None)
