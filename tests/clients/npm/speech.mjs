// What every script here needs: the clip as a client would have it, and one line of JSON at the end for the test.
//
// The environment names the server (OPENAI_BASE_URL, OPENAI_API_KEY), the clip (CLIP: mono, 16 bits, 24 kHz) and the words
// of a question to type (QUESTION).  It knows nothing of voxd.
import { readFileSync } from "node:fs";

export const { OPENAI_BASE_URL: BASE_URL, OPENAI_API_KEY: API_KEY, QUESTION, CLIP } = process.env;
export const STORY = "Tell me a long story."; // is answered without end
export const RATE = 24_000;

const HEADER = 44; // bytes of a WAV without extras
export const clip = () => readFileSync(CLIP).subarray(HEADER);
export const PAUSE = Buffer.alloc(2 * RATE * 1.5); // a turn is over

export function* pieces(pcm, ms = 100) {
  const step = (2 * RATE * ms) / 1000;
  for (let at = 0; at < pcm.length; at += step) yield pcm.subarray(at, at + step);
}

export const tell = result => process.stdout.write(JSON.stringify(result) + "\n");

// Tells the test that the server may be restarted, and returns when it was told to stop.
export const restarted = () =>
  new Promise(done => {
    tell({ ready: true });
    process.stdin.once("data", () => (process.stdin.pause(), done()));
  });

// Events of a client, one after the other.
export class Inbox {
  #waiting = [];
  #wanted = null;
  put = value => (this.#wanted ? (this.#wanted(value), (this.#wanted = null)) : this.#waiting.push(value));
  next = () =>
    this.#waiting.length ? Promise.resolve(this.#waiting.shift()) : new Promise(done => (this.#wanted = done));
  async until(true_) {
    for (;;) {
      const value = await this.next();
      if (true_(value)) return value;
    }
  }
}

export async function main(scenarios) {
  await scenarios[process.argv[2]]();
}
