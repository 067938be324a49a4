"""What both programs share, and the glossary.  Not in the path as a whole; it imports neither program.

One word means one thing, in names, docstrings, messages and documents.

On the wire
connection      one transport link of a client; it may break and be replaced
session         one Realtime conversation with its configuration; it can outlive a connection
transport       how a session's sound and events travel: WebSocket or WebRTC
event           one message of the Realtime API, of a client or of the server
packet          20 ms of audio, 320 samples at 16 kHz
item, response  as in the OpenAI Realtime API

In a conversation
turn            the time during which one side, the user or the model, has the floor
utterance       what the user says in one turn: speech between its start and its stop
VAD             voice activity detection: the probability that a VAD frame is speech
VAD frame       32 ms, 512 samples: what the VAD judges at once
hop             10 ms, 160 samples: the step of spectra and of the recorded truth about a clip
endpointing     deciding that the turn is over
tentative end   a pause long enough to begin a speculative answer, too short to end the turn
speculation     an answer begun before the turn is known to be over; discarded if the speech goes on
barge-in        speech of the user that interrupts an answer
commit          the end of an utterance: from here on its text, and its answer, are owed
transcript      the text of an utterance; `delta` is a further piece that is never taken back, `provisional` text may be
final           the whole transcript, after the commit

In the engine process
engine          a model that transcribes or responds, behind `voxd.engine.contract`
stream          one session's input as the engine sees it
ref             the number of one utterance or response of a stream
admission       a stream gets a slot or a refusal, never a silent wait
slot            the row of a batch (or the worker) that a stream occupies
step            one round of the loop in which an engine may compute
request         one response, or one part of a prompt, that the Mini engine is to compute
conversation    what a model remembers of a session: the prompts and answers so far
prompt          the token ids, with audio embeddings in their places, that a response begins with
token ids       integers of the tokenizer; special tokens are those without text
sampled token   the token that was chosen from the logits of a decode step
KV cache        keys and values of all tokens so far; a KV slot is the place of one token
block table     where in the cache the blocks of a conversation's positions lie
prefill         computing many tokens of a prompt at once
decode step     computing one token of each stream in a batch
bucket          a batch size for which kernels are prepared
capture, replay, warm-up   recording a CUDA graph, running it, and both once before the first stream
frame           80 ms, 1280 samples: one decode step of Voxtral Realtime
delay           the frames by which live text trails its audio, on purpose
lag             audio received and not yet decoded
stall           a stream whose text no longer grows although somebody speaks

The latency words, such as `final_ms`, are the rows of the table in `shared.latency`.
"""

__version__ = "0.1.0"
