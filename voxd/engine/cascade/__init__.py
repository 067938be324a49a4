"""Answers from a chat server to what the transcriber wrote.  Step 8.

Must not import its siblings.  Begin with `engine`; `chat` talks to the server, `errors` words what goes wrong.
"""
