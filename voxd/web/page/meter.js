// Measures latency as the person felt it: events with the times of their receipt become the metrics of each turn.
//
// Pure, and voxtui/session/meter.py once more: the same definitions under the same names (tests/voxd/web/
// test_page_modules.py feeds both the same events).  Where speech ended is voxd's decision less the silence that the
// decision waited for.

import { between, percentile } from "./latency.js";
import { METRICS } from "./metrics.js";

const TURNS = 1000; // turns whose stamps are kept; the oldest go
const VOXD_ONLY = METRICS.filter(({ source }) => source === "voxd"); // what the page cannot measure
const VAD = { prefix_padding_ms: 300, silence_duration_ms: 500 };

class Turn {
  constructor(key) {
    Object.assign(this, { key, start: 0, words: false, reported: {}, deltas: 0, lags: [] });
    Object.assign(this, { firstVoiced: null, lastVoiced: null }); // positions, ms of sound
    Object.assign(this, { firstVoicedAt: null, lastVoicedAt: null, decidedAt: null, committedAt: null });
    Object.assign(this, { firstWordsAt: null, firstTextAt: null, finalAt: null, firstDeltaAt: null, lastDeltaAt: null });
  }

  text(at, reachedAt, delay) {
    this.firstWordsAt ??= at;
    this.firstTextAt ??= at;
    if (reachedAt !== null && this.committedAt === null) this.lags.push(Math.max(0, at - reachedAt - delay));
  }

  delta(at) {
    if (this.firstDeltaAt === null) this.firstDeltaAt = at;
    this.lastDeltaAt = at;
    this.deltas += 1;
  }

  /** The metrics that apply. */
  metrics() {
    const found = {
      ttft_user_ms: between(this.lastVoicedAt, this.firstDeltaAt),
      endpoint_ms: between(this.lastVoicedAt, this.decidedAt),
      first_words_ms: between(this.firstVoicedAt, this.firstWordsAt),
      first_text_ms: between(this.firstVoicedAt, this.firstTextAt),
      lag_over_delay_ms: this.lags.length ? percentile(this.lags, 50) : null,
      final_ms: between(this.lastVoicedAt, this.finalAt),
      total_ms: between(this.committedAt, this.lastDeltaAt),
    };
    found.stood = this.reported.stood ?? null; // voxd saw the same words; the page does not compare them once more
    for (const { name } of VOXD_ONLY) found[name] = this.reported[name] ?? null;
    return Object.fromEntries(Object.entries(found).filter(([, value]) => value !== null));
  }
}

/** Measures one session.  `clock.timeOf(ms)`: when the sound that ends there was captured. */
export class Meter {
  constructor(clock) {
    this.clock = clock;
    this.turns = new Map();
    this.floor = null; // the utterance that the next answer answers; null: it was typed
    this.askedAt = null;
    this.vad = VAD;
    this.delay = 0; // by which text trails sound, as the session asked
  }

  /** Told that the person has typed something and asks for an answer. */
  asked(at) {
    [this.floor, this.askedAt] = [null, at];
  }

  /** Takes one event; returns {key, metrics, complete} when the figures of a turn have changed for good, else null. */
  receive(event, at) {
    switch (event.type) {
      case "session.created":
      case "session.updated":
        return this.configured(event.session);
      case "input_audio_buffer.speech_started":
        return this.started(event);
      case "input_audio_buffer.speech_stopped":
        return this.stopped(event, at);
      case "input_audio_buffer.committed":
        this.turn(event.item_id).committedAt = at;
        return null;
      case "conversation.item.added":
        if (event.item.role === "user" && event.item.content.some((part) => part.type === "input_text")) this.floor = null;
        return null;
      case "voxd.provisional":
        return event.text.trim() ? this.guessed(event, at) : null;
      case "conversation.item.input_audio_transcription.delta":
        return event.delta.trim() ? this.written(event, at) : null;
      case "conversation.item.input_audio_transcription.completed": {
        const turn = this.turn(event.item_id);
        turn.finalAt = at;
        return this.over(turn, Boolean(event.transcript.trim()));
      }
      case "response.created":
        return this.answering(event.response.id);
      case "response.output_text.delta":
        return event.delta ? this.answered(event, at) : null;
      case "response.done": {
        const turn = this.turn(event.response.id);
        return this.over(turn, turn.deltas > 0);
      }
      case "voxd.metrics":
        return this.reported(event);
      default:
        return null;
    }
  }

  turn(key) {
    if (!this.turns.has(key)) this.turns.set(key, new Turn(key));
    if (this.turns.size > TURNS) this.turns.delete(this.turns.keys().next().value);
    return this.turns.get(key);
  }

  configured(session) {
    const turns = session.audio.input.turn_detection;
    this.vad = turns && turns.type === "server_vad" ? turns : VAD;
    this.delay = session.voxd?.delay_ms ?? 0;
    return null;
  }

  started(event) {
    const turn = this.turn(event.item_id);
    turn.start = event.audio_start_ms;
    turn.firstVoiced = turn.start + this.vad.prefix_padding_ms;
    turn.firstVoicedAt = this.clock.timeOf(turn.firstVoiced);
    return null;
  }

  stopped(event, at) {
    const turn = this.turn(event.item_id);
    turn.lastVoiced = Math.max(turn.start, event.audio_end_ms - this.vad.silence_duration_ms);
    turn.lastVoicedAt = this.clock.timeOf(turn.lastVoiced);
    turn.decidedAt = at;
    this.floor = turn;
    return null;
  }

  /** The first words that can be seen may be provisional. */
  guessed(event, at) {
    const turn = this.turn(event.item_id);
    const fresh = turn.firstWordsAt === null;
    turn.firstWordsAt ??= at;
    return fresh ? this.first(turn) : null;
  }

  written(event, at) {
    const turn = this.turn(event.item_id);
    const fresh = turn.firstTextAt === null;
    const end = event.voxd_audio_ms;
    turn.text(at, end === undefined ? null : this.clock.timeOf(end), this.delay);
    return fresh ? this.first(turn) : null;
  }

  /** Begins an answer, which inherits the end of the speech that it answers; a typed question has none. */
  answering(key) {
    const turn = this.turn(key);
    if (this.floor) {
      const { lastVoiced, lastVoicedAt, decidedAt, committedAt } = this.floor;
      Object.assign(turn, { lastVoiced, lastVoicedAt, decidedAt, committedAt });
    } else turn.committedAt = this.askedAt;
    return null;
  }

  answered(event, at) {
    const turn = this.turn(event.response_id);
    turn.delta(at);
    return turn.deltas === 1 ? this.first(turn) : null;
  }

  /** The metrics of how soon an answer began; how long it will be is not known yet. */
  first(turn) {
    const metrics = turn.metrics();
    delete metrics.total_ms;
    return { key: turn.key, metrics, complete: false };
  }

  over(turn, words) {
    turn.words = words;
    return words ? { key: turn.key, metrics: turn.metrics(), complete: false } : null;
  }

  /** Takes voxd's own figures of a turn, and the times that a TrackClock learns from them. */
  reported(event) {
    const turn = this.turn(event.scope === "response" ? event.response_id : event.item_id);
    turn.reported = { ...event.derived_ms, rtf: event.rtf, stood: event.stood };
    turn.firstVoicedAt ??= turn.firstVoiced === null ? null : this.clock.timeOf(turn.firstVoiced);
    turn.lastVoicedAt ??= turn.lastVoiced === null ? null : this.clock.timeOf(turn.lastVoiced);
    return turn.words ? { key: turn.key, metrics: turn.metrics(), complete: true } : null;
  }
}
