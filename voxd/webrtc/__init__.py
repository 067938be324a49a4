"""Calls by WebRTC, the other way in beside the WebSocket.  Step 3 of a packet's path.

May import the gateway and the gate.  Begin with `calls`.  `sdp` and `track` are pure; only `peer` knows aiortc.
"""
