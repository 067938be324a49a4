// The way of a session: a WebRTC call where that can work, else a WebSocket.  Both take and give the same events.
//
// It knows transports; not what events mean, nor where sound comes from.  A call's sound is the browser's own business;
// a WebSocket's is sent here, in order, at most HELD packets late: what is older is dropped, and counted.

import { ask, secret, whyNot } from "./server.js";

const CALL_MS = 3000; // from the offer to an open channel; then it is the WebSocket's turn
const OPEN_MS = 10_000;
const AHEAD = 16_000; // bytes that the browser may hold back unsent: half a second of sound
const HELD = 150; // packets that wait here beyond it: 3 s
const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);
const EXTENSIONS = "metrics,provisional";

/** Why no call is tried, in a sentence; "" when one may work.  `place`: of the page, as `location`. */
export function whyNoCall(place, status, track) {
  if (!status.webrtc) return "this voxd takes no WebRTC calls";
  if (!track) return "without a microphone there is no call";
  if (!LOOPBACK.has(place.hostname)) return "";
  const port = place.port || (place.protocol === "https:" ? "443" : "80");
  if (status.listen.some((each) => each.endsWith(`:${port}`))) return "";
  return `voxd does not listen on port ${port}, so this page came through a tunnel, and ssh carries no UDP`;
}

/**
 * An open session.  `told(event, at)`; `closed(reason)` when it ends, unless by `close`.  Returns {kind, why, send, sendSound, close, dropped};
 * raises Refused, Unreachable, Error.
 */
export async function open({ session, query, status, track, told, closed, trying }) {
  let why = whyNoCall(location, status, track);
  const key = await secret(session);
  if (!why) {
    trying("WebRTC");
    try {
      return await Call.open({ key, query, track, told, closed });
    } catch (error) {
      why = error.message;
    }
  }
  trying("WebSocket");
  const link = await Socket.open({ key, query, told, closed });
  link.why = why;
  return link;
}

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

/** `open` makes it; exported for the test of what it does when the network is too slow. */
export class Socket {
  static open({ key, query, told, closed }) {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const url = `${scheme}//${location.host}${address("/v1/realtime", query, `${EXTENSIONS},binary`)}`;
    const socket = new WebSocket(url, ["realtime", `openai-insecure-api-key.${key}`]);
    socket.binaryType = "arraybuffer";
    const link = new Socket(socket);
    return new Promise((done, failed) => {
      const late = setTimeout(() => socket.close(), OPEN_MS);
      socket.onmessage = ({ data }) => told(parsed(data), performance.now());
      socket.onopen = () => done(link);
      socket.onclose = async ({ code, reason }) => {
        clearTimeout(late);
        if (link.over) return;
        if (link.opened) closed(farewell(code, reason));
        else failed(await whyNot().then((why) => new Error(why), (error) => error));
      };
      socket.addEventListener("open", () => {
        clearTimeout(late);
        link.opened = true;
      });
    });
  }

  constructor(socket) {
    Object.assign(this, { socket, kind: "WebSocket", why: "", opened: false, over: false, waiting: [], dropped: 0 });
    this.sent = 0; // bytes of sound
  }

  send(event) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  /** `record(bytes)`: all sound up to the end of this packet makes so many bytes; called when it goes out. */
  sendSound(pcm, record) {
    this.waiting.push([pcm, record]);
    if (this.waiting.length > HELD) {
      this.waiting.shift();
      this.dropped += 1;
    }
    while (this.waiting.length && this.socket.readyState === WebSocket.OPEN && this.socket.bufferedAmount < AHEAD) {
      const [packet, tell] = this.waiting.shift();
      this.sent += packet.byteLength;
      this.socket.send(packet);
      tell(this.sent);
    }
  }

  close() {
    this.over = true;
    this.socket.close(1000);
  }
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
      link.hangUp();
      throw error.name === "TimeoutError" ? new Error(`voxd did not answer a call within ${CALL_MS / 1000} s`) : error;
    }
    channel.onclose = () => link.end(closed, "The call was ended by voxd.");
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === "failed") link.end(closed, "The call broke: no sound came through for a while.");
    };
    return link;
  }

  constructor(peer, channel, key) {
    Object.assign(this, { peer, channel, key, kind: "WebRTC", why: "", dropped: 0, call: "", over: false });
  }

  /** Posted before candidates are gathered: voxd answers whoever calls its one candidate. */
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

  /** The browser sends the track. */
  sendSound() {}

  end(closed, reason) {
    if (this.over) return;
    this.over = true;
    this.peer.close();
    closed(reason);
  }

  close() {
    this.over = true;
    this.peer.close();
  }

  /** Over HTTP, of a call that never came about: no goodbye passes, and voxd would keep its slot until it gives up. */
  hangUp() {
    this.close();
    if (this.call) ask(this.call, { method: "DELETE", keepalive: true }).catch(() => {});
  }
}

function opening(channel, peer) {
  return new Promise((done, failed) => {
    const timer = setTimeout(() => {
      failed(new Error(`no UDP came through in ${CALL_MS / 1000} s: through ssh it cannot, elsewhere a firewall may stop it`));
    }, CALL_MS);
    channel.onopen = () => {
      clearTimeout(timer);
      done();
    };
    peer.oniceconnectionstatechange = () => {
      if (peer.iceConnectionState !== "failed") return;
      clearTimeout(timer);
      failed(new Error("no UDP came through"));
    };
  });
}
