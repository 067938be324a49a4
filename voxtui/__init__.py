"""The client: microphone or file in, words and latency out; a screen, a plain mode and headless tools.  Steps 1, 2 and
12."""
