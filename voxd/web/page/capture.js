// Runs in the audio thread: takes 128 samples at a time and posts packets of 20 ms to the page.

import { Framer } from "./framer.js";

registerProcessor(
  "capture",
  class extends AudioWorkletProcessor {
    constructor() {
      super();
      this.framer = new Framer(sampleRate);
    }

    process([[block]]) {
      for (const packet of block ? this.framer.push(block) : []) this.port.postMessage(packet, [packet.pcm]);
      return true;
    }
  },
);
