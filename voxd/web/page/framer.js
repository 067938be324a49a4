// Cuts blocks of any length into packets of 20 ms: s16le, with the level of each.
//
// Pure.  It knows no browser.  Bound: one packet.

export const PACKET_MS = 20;
export const QUIET = -60; // dBFS: the foot of the level meter

export class Framer {
  /** `rate`: Hz, a whole number of samples in 20 ms. */
  constructor(rate) {
    this.size = (rate * PACKET_MS) / 1000;
    this.samples = new Int16Array(this.size);
    this.filled = 0;
    this.energy = 0;
  }

  /** float [-1, 1] -> [{pcm, level}] of the packets that are full by now.  pcm: an ArrayBuffer; level: dBFS. */
  push(block) {
    const packets = [];
    for (const value of block) {
      const sample = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
      this.samples[this.filled] = sample;
      this.energy += sample * sample;
      this.filled += 1;
      if (this.filled === this.size) packets.push(this.packet());
    }
    return packets;
  }

  packet() {
    const mean = this.energy / this.size;
    const level = Math.max(QUIET, 10 * Math.log10(Math.max(mean, 1) / 32768 ** 2));
    const pcm = this.samples.buffer;
    [this.samples, this.filled, this.energy] = [new Int16Array(this.size), 0, 0];
    return { pcm, level };
  }
}
