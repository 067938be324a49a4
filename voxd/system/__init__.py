"""The machine below the daemon: systemd, sockets, the token's file.

Imports no other room.  Begin with `sockets`.
"""
