// The latency metrics of shared/latency.py for a browser, tested against it value by value.
//
// Pure: times come in as milliseconds of performance.now(); nothing here reads a clock.

/** The q-th percentile (0..100), linear between closest ranks (Hyndman and Fan, type 7). */
export function percentile(values, q) {
  if (!values.length) throw new RangeError("percentile of no values");
  const ordered = [...values].sort((a, b) => a - b);
  const place = ((ordered.length - 1) * q) / 100;
  const low = Math.floor(place);
  const high = Math.min(low + 1, ordered.length - 1);
  return ordered[low] + (ordered[high] - ordered[low]) * (place - low);
}

/** End - start in ms, never below 0; null if either is unknown. */
export function between(start, end) {
  return start === null || end === null ? null : Math.max(0, end - start);
}

/**
 * Tells when the sound that ends at a position was captured: a log of (position, time), both in ms; inside a packet the
 * time is counted back from its end.  Bound: `size` entries, a minute of 20 ms packets; the oldest are forgotten.
 */
export class SampleClock {
  constructor(size = 3000) {
    this.size = size;
    this.ends = [];
    this.times = [];
  }

  record(end, time) {
    if (this.ends.length && end <= this.ends.at(-1)) return;
    this.ends.push(end);
    this.times.push(time);
    if (this.ends.length > this.size) {
      this.ends.shift();
      this.times.shift();
    }
  }

  /** The time of capture, ms; null if unknown or forgotten. */
  timeOf(position) {
    let low = 0;
    let high = this.ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] < position) low = middle + 1;
      else high = middle;
    }
    if (low === this.ends.length || (low === 0 && position <= this.ends[0] - 1000)) return null;
    return this.times[low] - (this.ends[low] - position);
  }
}

/**
 * The same for a call, where the browser sends the sound by itself and tells no counts: voxd says when the sound of a
 * position reached it (`voxd.metrics`), and pings say what this page's clock showed then.  Nothing is known before that.
 */
export class TrackClock {
  constructor() {
    this.begun = null; // when position 0 was captured
    this.best = null; // the quickest of the latest pings
    this.pings = [];
  }

  /** Takes the four times of a ping.  t0, t3: this page's, ms; t1, t2: voxd's, us (RFC 5905, section 8). */
  ponged(t0, t1, t2, t3) {
    const [read, written] = [t1 / 1000, t2 / 1000];
    this.pings.push({ offset: (read - t0 + (written - t3)) / 2, way: (t3 - t0 - (written - read)) / 2 });
    if (this.pings.length > 16) this.pings.shift();
    this.best = this.pings.reduce((a, b) => (b.way < a.way ? b : a));
  }

  /** Told that the sound up to `position` (ms) reached voxd at `at` (us of its clock). */
  heard(position, at) {
    if (this.best) this.begun = at / 1000 - this.best.offset - this.best.way - position;
  }

  timeOf(position) {
    return this.begun === null ? null : this.begun + position;
  }
}
