// Opens the link of a session: a WebRTC call where that can work, else a WebSocket.  Both carry the same events.
//
// It knows transports, and how another link takes the place of one that broke; not what events mean, nor where sound
// comes from.  A call's sound is the browser's own business; a WebSocket's is sent here, as fast as the network takes it,
// from what is kept until it is text (`kept.js`).

import { ask, Refused, secret, whyNot } from "./server.js";

const CALL_MS = 3000; // from the offer to an open channel; then it is the WebSocket's turn
const OPEN_MS = 10_000;
const AHEAD = 16_000; // bytes that the browser may hold back unsent: half a second of sound
const PACE = 4; // packets for each that comes from the microphone: what was kept goes out so many times its own speed
const [FIRST_MS, MOST_MS] = [200, 5000]; // between two tries of a link
const PATIENCE_MS = 60_000; // voxd keeps a session for so long whose link has broken
const FINAL = [1000, 1001, 1008, 1009]; // close codes after which another link would end the same way
const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);
const EXTENSIONS = "metrics,provisional";

/** Why no call is tried, in a sentence; "" when one may work.  `place`: the page's `location`. */
export function whyNoCall(place, status, track) {
  if (!status.webrtc) return "this voxd takes no WebRTC calls";
  if (!track) return "without a microphone there is no call";
  if (!LOOPBACK.has(place.hostname)) return "";
  const port = place.port || (place.protocol === "https:" ? "443" : "80");
  if (status.listen.some((each) => each.endsWith(`:${port}`))) return "";
  return `voxd does not listen on port ${port}, so this page came through a tunnel, and ssh carries no UDP`;
}

/**
 * Opens a session.  Calls `told(event, at)`, and `closed({reason, final})` when it ends other than by `close`; final:
 * another link would end the same way.  `noUdp`: why a call has failed before.  Returns {kind, why, blocked, send, pump,
 * close, cut}, blocked: a call has failed, and would again; raises Refused, Unreachable, Error.
 */
export async function open({ session, query, status, track, noUdp, told, closed, trying }) {
  let why = noUdp || whyNoCall(location, status, track);
  let blocked = false;
  const key = await secret(session);
  if (!why) {
    trying("WebRTC");
    try {
      return await Call.open({ key, query, track, told, closed });
    } catch (error) {
      why = error.message;
      blocked = error instanceof NoUdp;
    }
  }
  trying("WebSocket");
  return Object.assign(await Socket.open({ key, query, told, closed }), { why, blocked });
}

/**
 * Replaces a broken link by a WebSocket; tried for a minute.  `resume()`: {token, seq} of the session to go on with, or
 * null; `going()`: false when the person has given up, then null is returned.  Raises Refused (of the key), Error.
 */
export async function reopen({ session, query, resume, told, closed, trying, going }) {
  const since = performance.now();
  for (let pause = FIRST_MS; ; pause = Math.min(2 * pause, MOST_MS)) {
    await new Promise((done) => setTimeout(done, pause * (0.5 + Math.random() / 2))); // not all pages at once
    if (!going()) return null;
    try {
      const known = resume();
      const more = known ? { voxd_resume: known.token, voxd_last_seq: known.seq } : {};
      const link = await Socket.open({ key: await secret(session), query: { ...query, ...more }, told, closed });
      if (going()) return link;
      link.close();
      return null;
    } catch (error) {
      if (error instanceof Refused && error.aboutKey) throw error;
      if (performance.now() - since > PATIENCE_MS) throw error;
      trying(error.message);
    }
  }
}

class NoUdp extends Error {}

function address(path, query, more) {
  return `${path}?${new URLSearchParams({ ...query, voxd_ext: more })}`;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return { type: "unreadable" };
  }
}

// ── WebSocket ─────────────────────────────────────────────────────────────────────────────────────────────────────

class Socket {
  static open({ key, query, told, closed }) {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const url = `${scheme}//${location.host}${address("/v1/realtime", query, `${EXTENSIONS},resume`)}`;
    const socket = new WebSocket(url, ["realtime", `openai-insecure-api-key.${key}`]);
    const link = new Socket(socket);
    return new Promise((done, failed) => {
      const late = setTimeout(() => socket.close(), OPEN_MS);
      socket.onmessage = ({ data }) => told(parsed(data), performance.now());
      socket.onopen = () => done(link);
      socket.onclose = async ({ code, reason }) => {
        clearTimeout(late);
        if (link.over) return;
        if (link.opened) closed({ reason: farewell(code, reason), final: FINAL.includes(code) });
        else failed(await whyNot().then((why) => new Error(why), (error) => error));
      };
      socket.addEventListener("open", () => {
        clearTimeout(late);
        link.opened = true;
      });
    });
  }

  constructor(socket) {
    Object.assign(this, { socket, kind: "WebSocket", why: "", opened: false, over: false });
  }

  send(event) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  /** Called with each packet of the microphone: sends as much of what is kept as the network takes. */
  pump(kept) {
    for (let count = 0; count < PACE && this.free; count += 1) {
      const packet = kept.take();
      if (!packet) return;
      this.send({ type: "input_audio_buffer.append", audio: base64(packet.pcm), voxd_offset: packet.offset });
    }
  }

  get free() {
    return this.socket.readyState === WebSocket.OPEN && this.socket.bufferedAmount < AHEAD;
  }

  /** Closes the link for good: voxd forgets the session. */
  close() {
    this.over = true;
    this.socket.close(1000);
  }

  /** Gives the link up: voxd keeps the session for a client that comes back. */
  cut() {
    this.over = true;
    this.socket.close(4000);
  }
}

function base64(pcm) {
  return btoa(String.fromCharCode(...new Uint8Array(pcm)));
}

function farewell(code, reason) {
  if (reason) return `voxd ended the connection: ${reason}.`;
  if (code === 1006) return "The connection to voxd broke.";
  return `The connection to voxd ended (${code}).`;
}

// ── WebRTC ────────────────────────────────────────────────────────────────────────────────────────────────────────

class Call {
  static async open({ key, query, track, told, closed }) {
    const peer = new RTCPeerConnection();
    const channel = peer.createDataChannel("oai-events");
    const link = new Call(peer, channel, key);
    channel.onmessage = ({ data }) => told(parsed(data), performance.now());
    try {
      await link.offer(query, track);
      await opening(channel, peer);
    } catch (error) {
      link.cut();
      throw error.name === "TimeoutError" ? new Error(`voxd did not answer a call within ${CALL_MS / 1000} s`) : error;
    }
    channel.onclose = () => link.end(closed, { reason: "The call was ended by voxd.", final: true });
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === "failed") link.end(closed, { reason: "The call broke.", final: false });
    };
    return link;
  }

  constructor(peer, channel, key) {
    Object.assign(this, { peer, channel, key, kind: "WebRTC", why: "", blocked: false, call: "", over: false });
  }

  /** Posts the offer before candidates are gathered, since voxd answers whoever reaches its one candidate. */
  async offer(query, track) {
    this.sender = this.peer.addTrack(track);
    await this.peer.setLocalDescription();
    const answer = await ask(address("/v1/realtime/calls", query, EXTENSIONS), {
      method: "POST",
      key: this.key,
      headers: { "Content-Type": "application/sdp" },
      body: this.peer.localDescription.sdp,
      signal: AbortSignal.timeout(CALL_MS),
    });
    this.call = answer.headers.get("Location") ?? "";
    await this.peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  }

  send(event) {
    if (this.channel.readyState === "open") this.channel.send(JSON.stringify(event));
  }

  /** Does nothing: in a call the browser sends the sound itself. */
  pump() {}

  end(closed, how) {
    if (this.over) return;
    this.close();
    closed(how);
  }

  close() {
    this.over = true;
    this.peer.close();
  }

  /** Hangs up over HTTP: where no UDP passes, voxd would keep the slot until it gives up. */
  cut() {
    this.close();
    if (this.call) ask(this.call, { method: "DELETE", keepalive: true }).catch(() => {});
  }
}

function opening(channel, peer) {
  return new Promise((done, failed) => {
    const timer = setTimeout(() => {
      failed(new NoUdp(`no UDP came through in ${CALL_MS / 1000} s: through ssh it cannot, elsewhere a firewall may stop it`));
    }, CALL_MS);
    channel.onopen = () => {
      clearTimeout(timer);
      done();
    };
    peer.oniceconnectionstatechange = () => {
      if (peer.iceConnectionState !== "failed") return;
      clearTimeout(timer);
      failed(new NoUdp("no UDP came through"));
    };
  });
}
