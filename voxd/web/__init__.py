"""HTTP: who may come in, pages, transcription of files, the WebSocket.  Steps 3 and 11 of a packet's path.

May import the gateway; knows no engine.  Begin with `gate` (what is refused before anything else) and `websocket`.
Every refusal is an `HttpProblem`.  `page/` is a client in JavaScript, which `page_files` serves as it is.
"""
