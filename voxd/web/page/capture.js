// The thread of the sound: 128 samples at a time come in, packets of 20 ms go to the page.

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
