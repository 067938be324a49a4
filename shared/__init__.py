"""What both programs say; imports neither of them.  The words, one meaning each, everywhere:

connection   one transport link
session      its Realtime conversation
stream       one audio input inside the engine
slot         the batch row (or worker) a stream occupies
turn         who holds the floor
utterance    speech between start and stop
item, response   as in the OpenAI Realtime API
packet       20 ms of audio on the wire
hop          10 ms, 160 samples at 16 kHz
frame        80 ms, 1280 samples, one decode step of Voxtral Realtime; a *VAD frame* is 32 ms, 512 samples
delay        frames by which live text trails audio
VAD          speech probability of a VAD frame
endpointing  deciding that the turn is over
tentative end   a pause long enough to start speculating, too short to end the turn
prefill, decode step, bucket, capture, replay, warm-up   as in the LLM-serving literature
admission    a slot or a refusal, never a silent queue
lag          audio received and not yet decoded

The metrics (all defined in `shared.latency`):

ttft_user_ms      response        last voiced sample captured -> first text delta received by the client
ttft_server_ms    response        commit -> first delta written to the socket
ttft_engine_ms    response        commit in the engine -> first token whose text is not empty
endpoint_ms       both            last voiced sample -> end of turn decided
first_text_ms     transcription   first voiced sample -> first delta received
lag_over_delay_ms transcription   delta's arrival - its audio position - configured delay
final_ms          transcription   last voiced sample -> final transcript received
itl_ms, total_ms  response        gap between deltas; commit -> last delta
saved_ms          response        the head start of an answer begun before it was asked for (speculation)
render_ms         both            delta received -> painted
rtf               both            compute / audio, lower is better

A metric that does not apply is absent, never 0.
"""

__version__ = "0.1.0"
