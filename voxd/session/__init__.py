"""The Realtime session, a pure core: client events and engine outputs in, server events and engine commands out.

    core          `Session`: the way in; configuration; who gets which event
    terms         what was agreed: the session's configuration together with what this server can do
    outbox        everything that leaves, in order
    listening     wire audio in, engine feed and turn marks out
    attached      audio that comes along with items
    utterances    what the person says: item, transcript, commit, failure, replay
    answers       what the model says: one active response, speculation, barge-in
    responses     the events of one response, in their order
    conversation  the items
    intake        a client's message of any size, made ready to be parsed

None of it knows a socket, a clock, a thread or that other sessions exist.
"""
