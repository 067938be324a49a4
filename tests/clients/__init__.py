"""Clients that others wrote, unmodified, against a real voxd: `make test-clients`.  `catalogue` is where to begin."""
