// Turns each event of a conversation into operations on the screen.
//
// Pure: no document, no clock.  A delta is one `append` of its own; text that is shown is never taken back.
//
//   open {key, voice, heard}   append {key, text}   guess {key, text}   close {key, broken, remark}   drop {key}
//   note {text, trouble}       speech {state}: "listening", "speaking", "finishing"

const KEPT = 200; // open entries that are remembered; voxd keeps far fewer open
const WORDS = { turn_detected: "interrupted", client_cancelled: "stopped", max_output_tokens: "cut at its longest" };
// What acts on the order of reading, or is no text: controls but \n and \t, embeddings, overrides and isolates.
// eslint-disable-next-line no-control-regex
const UNSAFE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;

export function safe(text) {
  return String(text).replace(/\r\n?/g, "\n").replace(UNSAFE, "\ufffd");
}

export class Transcript {
  constructor() {
    this.entries = new Map(); // key -> text so far, of open entries
    this.transcriber = this.responder = null;
    this.speakingIn = null;
  }

  /** Whether an answer is being given. */
  get answering() {
    return [...this.entries.values()].some((entry) => entry.voice === "model");
  }

  /** Whether somebody speaks, or has spoken and it is not yet written down. */
  get owes() {
    return this.speakingIn !== null || [...this.entries.values()].some((entry) => entry.voice === "user");
  }

  receive(event) {
    const ops = [];
    switch (event.type) {
      case "session.created":
      case "session.updated":
        this.transcriber = event.session.voxd?.transcribe ?? null;
        this.responder = event.session.voxd?.respond ?? null;
        break;
      case "input_audio_buffer.speech_started":
        this.open(ops, event.item_id, "user", true);
        this.speakingIn = event.item_id;
        ops.push({ op: "speech", state: "speaking" });
        break;
      case "input_audio_buffer.speech_stopped":
        this.speakingIn = null;
        ops.push({ op: "speech", state: "finishing" });
        break;
      case "conversation.item.added":
        this.added(ops, event.item);
        break;
      case "conversation.item.input_audio_transcription.delta":
        this.open(ops, event.item_id, "user", true);
        this.append(ops, event.item_id, event.delta);
        break;
      case "voxd.provisional":
        this.open(ops, event.item_id, "user", true);
        ops.push({ op: "guess", key: event.item_id, text: safe(event.text) });
        break;
      case "conversation.item.input_audio_transcription.completed":
        this.open(ops, event.item_id, "user", true);
        this.finish(ops, event.item_id, event.transcript);
        break;
      case "conversation.item.input_audio_transcription.failed":
        this.open(ops, event.item_id, "user", true);
        this.close(ops, event.item_id, true, event.error.message);
        break;
      case "response.created":
        this.open(ops, event.response.id, "model", false);
        break;
      case "response.output_text.delta":
        this.open(ops, event.response_id, "model", false);
        this.append(ops, event.response_id, event.delta);
        break;
      case "response.done":
        this.answered(ops, event.response);
        break;
      case "error":
        ops.push({ op: "note", text: safe(event.error.message), trouble: true });
        break;
      case "voxd.warning":
        ops.push({ op: "note", text: safe(event.message), trouble: false });
        break;
      default:
    }
    return ops;
  }

  /**
   * Closes the open entries, for which nothing more comes; one without a word is dropped.  `again`: another session will
   * get the same sound and write it down once more.
   */
  disconnected(again = false) {
    const ops = [];
    this.speakingIn = null;
    for (const [key, entry] of [...this.entries]) {
      if (entry.text && !(again && entry.voice === "user")) this.close(ops, key, true, "connection lost");
      else this.drop(ops, key);
    }
    return ops;
  }

  open(ops, key, voice, heard) {
    if (this.entries.has(key)) return;
    this.entries.set(key, { voice, text: "" });
    if (this.entries.size > KEPT) this.entries.delete(this.entries.keys().next().value);
    ops.push({ op: "open", key, voice, heard });
  }

  append(ops, key, delta) {
    if (!delta) return;
    const text = safe(delta);
    this.entries.get(key).text += text;
    ops.push({ op: "append", key, text, voice: this.entries.get(key).voice });
  }

  added(ops, item) {
    if (item.role !== "user") return;
    const typed = item.content.filter((part) => part.type === "input_text").map((part) => part.text).join("\n");
    if (typed) {
      this.open(ops, item.id, "user", false);
      this.append(ops, item.id, typed);
      this.close(ops, item.id, false, "");
    } else {
      this.open(ops, item.id, "user", true); // in front of its answer, which may come before its text
      if (this.transcriber === null) this.close(ops, item.id, false, "spoken; nobody writes it down here");
    }
  }

  /** Ends an item.  Its deltas make its text; what they lack is added. */
  finish(ops, key, transcript) {
    const shown = this.entries.get(key).text;
    const whole = safe(transcript);
    if (!whole.trim()) this.drop(ops, key); // a cough
    else {
      if (whole.startsWith(shown) && whole !== shown) this.append(ops, key, transcript.slice(shown.length));
      this.close(ops, key, false, "");
    }
  }

  answered(ops, response) {
    const good = response.status === "completed";
    this.open(ops, response.id, "model", false);
    if ((good || response.status === "cancelled") && !this.entries.get(response.id).text) {
      this.drop(ops, response.id); // nothing was said
      return;
    }
    const details = response.status_details ?? {};
    const why = details.error?.message ?? WORDS[details.reason] ?? details.reason ?? response.status;
    this.close(ops, response.id, !good, good ? "" : why);
  }

  close(ops, key, broken, remark) {
    this.entries.delete(key);
    ops.push({ op: "close", key, broken, remark: safe(remark) });
    this.settled(ops);
  }

  drop(ops, key) {
    this.entries.delete(key);
    ops.push({ op: "drop", key });
    this.settled(ops);
  }

  settled(ops) {
    if (!this.owes) ops.push({ op: "speech", state: "listening" });
  }
}
