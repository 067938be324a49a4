// Keeps sound that is not yet text, and knows what of it has gone out, so that a broken link loses none of it.
//
// Pure, and voxtui/link/replay.py in packets: they are numbered from the microphone's first one on; voxd counts samples
// from the first of *its* session, and this is the only place that knows the difference.  It knows no sockets.
//
// Bound: KEPT packets; at the bound the oldest go.  They count as lost if they had not gone out, and also once it is known
// that voxd has not got them.

import { PACKET_MS } from "./framer.js";

const KEPT = 30_000 / PACKET_MS;

export class Kept {
  /** `rate`: of the sound, Hz. */
  constructor(rate) {
    this.size = (rate * PACKET_MS) / 1000; // samples in a packet
    this.packets = []; // {pcm, at} of sound that is not settled
    this.first = 0; // number of the oldest
    this.base = 0; // number of the one that voxd's session begins with
    this.next = 0; // number of the one to go out next
    this.settled = 0; // packets below this number are text, or never will be
    this.lost = 0; // packets that were lost
    this.holes = []; // [start, end) of lost packets above `settled`, apart and in order
    this.greeted = false; // whether the link's session is known
    this.token = null; // of the session
    this.seq = 0; // of the last event that was read
  }

  /** How many packets wait for the link. */
  get waiting() {
    return this.first + this.packets.length - this.next;
  }

  /** Keeps a packet whose last sample was captured at `at`.  Returns where it ends in the session, ms. */
  add(pcm, at) {
    this.packets.push({ pcm, at });
    if (this.packets.length > KEPT) this.forget(this.first + 1);
    return (this.first + this.packets.length - this.base) * PACKET_MS;
  }

  /** The next packet to go out: {pcm, offset}, offset in samples of the session; null for none. */
  take() {
    if (!this.greeted || !this.waiting) return null;
    const number = this.next;
    this.next += 1;
    return { pcm: this.packets[number - this.first].pcm, offset: (number - this.base) * this.size };
  }

  /** Yields where each packet ends in the session (ms), and when it was captured. */
  *times() {
    for (const [count, { at }] of this.packets.entries()) yield [(this.first + count + 1 - this.base) * PACKET_MS, at];
  }

  /** Told that the sound captured before `at` has gone another way. */
  since(at) {
    const fresh = this.packets.findIndex((packet) => packet.at > at);
    this.forget(this.first + (fresh < 0 ? this.packets.length : fresh), true);
  }

  /** Told that the link has broken. */
  cut() {
    this.greeted = false;
  }

  /** Takes what voxd says of the session on a link that has been opened. */
  receive(event) {
    if (event.voxd_seq !== undefined) this.seq = event.voxd_seq;
    switch (event.type) {
      case "session.created": // a session that knows nothing yet gets all that is not settled
        this.token = event.session.voxd?.resume_token ?? null;
        this.base = this.next = this.first;
        this.lose(this.settled, this.first);
        this.greeted = true;
        break;
      case "voxd.resumed": // the session goes on, and skips the part of a packet that it has
        this.lose(this.place(event.received_samples), this.first);
        this.next = Math.max(this.first, this.place(event.received_samples));
        this.greeted = true;
        break;
      case "voxd.ack":
        this.forget(Math.min(this.place(event.settled_samples), this.next), true);
        break;
      default:
    }
  }

  place(samples) {
    return this.base + Math.floor(samples / this.size);
  }

  /** Forgets everything below `number`; `settled`: it is text, or never will be. */
  forget(number, settled = false) {
    const count = Math.max(0, number - this.first);
    if (settled) {
      this.settled = Math.max(this.settled, number);
      this.holes = this.holes.filter(([, end]) => end > this.settled);
    } else this.lose(Math.max(this.next, this.first), number);
    this.packets.splice(0, count);
    this.first += count;
    this.next = Math.max(this.next, this.first);
  }
  /** Counts the packets [start, end) as lost, none of them twice.  Only the oldest go, so no hole lies above another's end. */
  lose(start, end) {
    if (end <= start) return;
    const met = this.holes.filter(([, last]) => last >= start);
    this.lost += end - start - met.reduce((sum, [from, last]) => sum + last - Math.max(from, start), 0);
    this.holes = [...this.holes.filter(([, last]) => last < start), [Math.min(start, ...met.map(([from]) => from)), end]];
  }
}
