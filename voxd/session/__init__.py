"""The Realtime session, a pure core: client events and engine outputs in, server events and engine commands out.

    core          `Session`: begin reading here; configuration; which part gets which event
    turns         when an utterance begins, pauses and ends, from speech probabilities
    openings      which updates the engine process has yet to agree to
    terms         the configuration in effect: what the client asked for and this server can do
    outbox        everything that leaves, in order
    listening     wire audio in, engine feed and turn marks out
    attached      audio that comes along with items
    utterances    the user's side: item, transcript, commit, failure, replay
    answers       the model's side: one active response, speculation, barge-in
    responses     the events of one response, in their order
    conversation  the items, in order
    drafts        an item as a client sends it, checked
    intake        a client's message of any size, made ready to be parsed

Step 10, and the parsing half of step 5.  It may import `shared` and `voxd.messages`.  None of it knows a socket, a
clock, a thread or that other sessions exist.
"""
