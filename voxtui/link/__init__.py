"""The way to the daemon: WebSocket, WebRTC leg, SSH tunnel, and what is kept when one breaks.  Step 2, and 12 on the
way back.

This room knows no microphone and no screen.  Begin with `client`; `replay` and `transport_policy` are pure.
"""
