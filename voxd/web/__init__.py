"""HTTP: who may come in, pages, files to be transcribed, the WebSocket.  Step 3 of a packet's path, and step 11.

May import the gateway; knows no engine.  Begin with `gate` (what is refused before anything else) and `websocket`.
`page/` is a client in JavaScript that `page_files` serves as it is.
"""
