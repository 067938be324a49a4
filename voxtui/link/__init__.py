"""The way to the daemon: WebSocket, WebRTC leg, SSH tunnel, and what is kept when one breaks.  Step 2, and 12 on the
way back.

Begin with `client`; `replay` and `transport_policy` are pure.
"""
