"""`voxtui bench`: many sessions that keep their own time, and the latency that each of them felt.  Not in the path.

`plan` says when which clip begins, `drive` plays it, `tally` books what came back, `goals` and `report` judge and tell;
`command` is what the command line calls.
"""
