"""The paths and query parameters of voxd's API that both programs use.  Not in the path.

Pure: names only.  It does not know who serves them or who asks for them.
"""

from __future__ import annotations

REALTIME = "/v1/realtime"
CALLS = "/v1/realtime/calls"
CLIENT_SECRETS = "/v1/realtime/client_secrets"
TRANSCRIPTIONS = "/v1/audio/transcriptions"

RESUME = "voxd_resume"  # the resume token of the session that a client comes back to
LAST_SEQ = "voxd_last_seq"  # the number of the last event that this client has received
SESSION = "voxd_session"  # of a call: the resume token of the session whose audio it carries
