"""What the daemon needs of its machine: a fair event loop, systemd, signals, listening sockets, the token file.

Not in the path.  This room imports no other package of voxd.  Begin with `sockets`.
"""
