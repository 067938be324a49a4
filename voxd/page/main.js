// The page put together: token → status → microphone → link → transcript, meter, screen.

import { SampleClock, TrackClock } from "./latency.js";
import { open } from "./link.js";
import { Meter } from "./meter.js";
import { devices, insecure, Microphone, NoMicrophone } from "./microphone.js";
import { QUIET } from "./framer.js";
import { Refused, status, token, Unreachable } from "./server.js";
import { Transcript } from "./transcript.js";
import { byId, Figures, show, Turns } from "./view.js";

const PING_MS = 2000;
const SLOW_MS = 3000; // without an answer to a ping: the person is told
const LOADING_MS = 2000; // between looks at a voxd that is not ready, or not there
const LONGEST_MS = 10_000; // of a pause in what is said while a key is held
const SHORTEST_MS = 160; // of the silence that ends it once the key is up

const page = {
  state: "loading", // locked, loading, idle, starting, on
  status: null,
  microphone: null,
  link: null,
  session: null, // as voxd has it
  transcript: new Transcript(),
  meter: null,
  clock: null,
  held: false,
  muted: false,
  pinged: [], // of pings without an answer
  early: [], // events that came while the link was being opened
  dropped: 0,
  slow: false,
};
const turns = new Turns(byId("turns"), "voxd");
const figures = new Figures();

const pushes = () => byId("push").checked;
const answers = () => page.status?.engines.respond !== null;
const live = () => page.state === "on";

// ── what the person sees of the state ─────────────────────────────────────────────────────────────────────────────

function become(state) {
  page.state = state;
  document.body.dataset.state = state;
  const engines = page.status?.engines;
  byId("engines").textContent = engines ? [engines.transcribe, engines.respond].filter(Boolean).join(" → ") : "";
  show("locked", state === "locked");
  show("welcome", state !== "locked" && !byId("turns").childElementCount);
  show("controls", state !== "locked");
  show("type", state !== "locked" && page.status !== null && answers());
  byId("start").disabled = state !== "idle" && state !== "on";
  byId("start").textContent = live() ? "End" : state === "starting" ? "Starting …" : "Start listening";
  byId("start").classList.toggle("first", !live());
  show("mute", live() && page.microphone && !pushes());
  show("hold", live() && page.microphone && pushes());
  show("stop", page.transcript.answering);
  if (!live()) linkLine(state === "idle" ? "not connected" : state, "");
}

function linkLine(state, why) {
  byId("link-state").textContent = state;
  byId("link-why").textContent = why;
}

function trouble(text) {
  byId("trouble").textContent = text;
  show("trouble", Boolean(text));
}

function speech(state) {
  document.body.dataset.speech = state;
  if (!live()) return;
  const lag = page.slow ? " · voxd has not answered for 3 s: the network is slow" : "";
  const lost = page.dropped ? ` · ${(page.dropped / 50).toFixed(1)} s of sound dropped, the link is too slow` : "";
  const silent = page.muted && !pushes() ? "muted" : state;
  linkLine(`${silent} · ${page.link.kind}`, page.link.why + lag + lost);
}

function unlock(why) {
  byId("locked-why").textContent = why;
  become("locked");
  byId("token").focus();
}

/** An error of HTTP, wherever it came up. */
function told(error) {
  if (error instanceof Refused && error.aboutKey) unlock(token.get() ? `It refused the token: ${error.message}` : "");
  else {
    trouble(error.message);
    if (page.state === "starting") become("idle");
  }
}

// ── voxd ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Until it is ready. */
async function greet() {
  clearTimeout(page.later);
  try {
    page.status = await status();
  } catch (error) {
    if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
    if (page.state === "starting" || live()) return; // which finds out by itself
    told(error);
    if (error instanceof Unreachable) page.later = setTimeout(greet, LOADING_MS);
    return;
  }
  if (page.state === "starting" || live()) return;
  trouble(window.isSecureContext ? "" : insecure());
  figures.about(answers(), {});
  turns.name = page.status.engines.respond ?? "voxd";
  if (page.status.state === "ready") {
    become("idle");
    return;
  }
  become("loading");
  linkLine("loading", page.status.progress ?? "");
  page.later = setTimeout(greet, LOADING_MS);
}

function configuration() {
  const input = {
    format: { type: "audio/pcm", rate: page.microphone?.rate ?? 16000 },
    transcription: page.status.engines.transcribe ? {} : null,
  };
  return { type: answers() ? "realtime" : "transcription", audio: { input } };
}

/** `listens`: with the microphone; else only to type. */
async function start(listens) {
  trouble("");
  become("starting");
  try {
    if (listens) await listen(byId("device").value);
    page.status = await status();
    page.transcript = new Transcript();
    page.early = [];
    page.link = await open({
      session: configuration(),
      query: answers() ? {} : { intent: "transcription" },
      status: page.status,
      track: page.microphone?.track ?? null,
      told: receive,
      closed: ended,
      trying: (kind) => linkLine("connecting", `trying ${kind}`),
    });
  } catch (error) {
    hush();
    if (error instanceof NoMicrophone) {
      trouble(error.message);
      become("idle");
    } else told(error);
    return;
  }
  begun();
}

function begun() {
  page.clock = page.link.kind === "WebRTC" ? new TrackClock() : new SampleClock();
  page.meter = new Meter(page.clock);
  [page.pinged, page.dropped, page.slow] = [[], 0, false];
  become("on");
  speech("listening");
  mute(page.muted);
  for (const [event, at] of page.early.splice(0)) receive(event, at);
  page.pinger = setInterval(ping, PING_MS);
  for (let count = 0; count < 4; count += 1) ping();
}

async function listen(deviceId) {
  hush();
  page.microphone = await Microphone.open(deviceId, hear, () => {
    trouble("The microphone is gone. Choose another one.");
    hush();
    become(page.state);
  });
  const found = await devices();
  const options = found.map(({ id, name }) => new Option(name, id, false, id === page.microphone.deviceId));
  byId("device").replaceChildren(...options);
}

function hush() {
  page.microphone?.close();
  page.microphone = null;
  level(QUIET);
}

function ended(reason) {
  clearInterval(page.pinger);
  for (const op of page.transcript.disconnected()) turns.apply(op, performance.now(), () => {});
  hush();
  page.link = null;
  become("idle");
  if (reason) trouble(reason);
  greet();
}

function stop() {
  page.link.close();
  ended("");
}

// ── sound ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function hear({ pcm, level: loud }, at) {
  level(loud);
  if (!live() || !page.microphone) return;
  page.link.sendSound(pcm, (bytes) => page.clock.record((bytes * 1000) / 2 / page.microphone.rate, at));
  if (page.link.dropped !== page.dropped) {
    page.dropped = page.link.dropped;
    speech(document.body.dataset.speech);
  }
}

function level(loud) {
  byId("level").firstElementChild.style.setProperty("--level", String((loud - QUIET) / -QUIET));
  byId("level").setAttribute("aria-valuenow", String(Math.round(loud)));
}

function mute(muted) {
  page.muted = muted;
  if (page.microphone) page.microphone.muted = pushes() ? !page.held : muted;
  byId("mute").setAttribute("aria-pressed", String(muted));
  byId("mute").textContent = muted ? "Unmute" : "Mute";
  speech(document.body.dataset.speech ?? "listening");
}

/** Push to talk: while the key is down no pause ends the turn; when it is up, silence follows and the shortest one does. */
function hold(held) {
  if (!live() || !pushes() || page.held === held) return;
  page.held = held;
  silence(held ? LONGEST_MS : SHORTEST_MS);
  mute(page.muted);
  byId("hold").classList.toggle("held", held);
}

function silence(ms) {
  const vad = { ...page.session.audio.input.turn_detection, silence_duration_ms: ms };
  page.link.send({ type: "session.update", session: { audio: { input: { turn_detection: vad } } } });
}

function modeChanged() {
  page.held = false;
  if (live()) {
    silence(pushes() ? SHORTEST_MS : page.silence);
    mute(page.muted);
  }
  become(page.state);
  if (live()) speech("listening");
}

// ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────

function ping() {
  const t0 = performance.now();
  page.link?.send({ type: "voxd.ping", ping_id: t0, t0 });
  page.pinged.push(t0);
  const slow = t0 - page.pinged[0] > SLOW_MS;
  if (slow !== page.slow) {
    page.slow = slow;
    speech(document.body.dataset.speech);
  }
}

function receive(event, at) {
  if (!live()) {
    if (page.state === "starting") page.early.push([event, at]); // the link has not been handed over yet
    return;
  }
  if (event.type === "voxd.pong") {
    page.pinged = page.pinged.filter((t0) => t0 > event.t0);
    if (page.clock instanceof TrackClock) page.clock.ponged(event.t0, event.t1_us, event.t2_us, at);
    return;
  }
  if (event.type.startsWith("session.")) configured(event);
  const { stamps, audio } = event;
  if (event.type === "voxd.metrics" && page.clock instanceof TrackClock && stamps.speech_end_us) {
    page.clock.heard(audio.speech_end_ms, stamps.speech_end_us);
  }
  for (const op of page.transcript.receive(event)) {
    if (op.op === "speech") speech(op.state);
    else turns.apply(op, at, (ms) => figures.painted(ms));
  }
  const measured = page.meter.receive(event, at);
  if (measured) {
    figures.turn(measured);
    turns.measured(measured.key, measured.metrics);
  }
  show("stop", page.transcript.answering);
  show("welcome", !byId("turns").childElementCount);
}

function configured({ type, session }) {
  page.session = session;
  if (session.voxd?.targets) figures.about(answers(), session.voxd.targets);
  if (type !== "session.created") return;
  page.silence = session.audio.input.turn_detection.silence_duration_ms;
  if (pushes()) silence(SHORTEST_MS);
}

async function say(text) {
  if (!live()) await start(false);
  if (!live()) return;
  page.link.send({
    type: "conversation.item.create",
    item: { type: "message", role: "user", content: [{ type: "input_text", text }] },
  });
  if (page.transcript.answering) page.link.send({ type: "response.cancel" });
  page.meter.asked(performance.now());
  page.link.send({ type: "response.create" });
}

// ── the person ────────────────────────────────────────────────────────────────────────────────────────────────────

byId("locked").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value);
  byId("token").value = "";
  greet();
});
byId("start").addEventListener("click", () => (live() ? stop() : start(true)));
byId("mute").addEventListener("click", () => mute(!page.muted));
byId("push").addEventListener("change", modeChanged);
byId("hold").addEventListener("pointerdown", () => hold(true));
for (const over of ["pointerup", "pointerleave", "pointercancel"]) byId("hold").addEventListener(over, () => hold(false));
byId("device").addEventListener("change", async () => {
  if (!live()) return;
  stop();
  await start(true);
});
byId("type").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("typed").value.trim();
  if (!text || !(live() || page.state === "idle")) return; // it stays in the field
  byId("typed").value = "";
  say(text);
});
byId("stop").addEventListener("click", () => page.link?.send({ type: "response.cancel" }));

/** Space belongs to push-to-talk unless something else has the focus that takes it. */
function talks(event) {
  return event.code === "Space" && live() && pushes() && !event.target.closest("input:not(#push), select, summary");
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && page.transcript.answering) page.link?.send({ type: "response.cancel" });
  if (!talks(event)) return;
  event.preventDefault();
  if (!event.repeat) hold(true);
});
document.addEventListener("keyup", (event) => {
  if (!talks(event)) return;
  event.preventDefault();
  hold(false);
});
window.addEventListener("blur", () => hold(false));
window.addEventListener("pagehide", () => page.link?.close());
window.addEventListener("hashchange", () => token.take() && greet());

const wide = matchMedia("(min-width: 801px)");
const unfold = () => (byId("figures").open = wide.matches);
wide.addEventListener("change", unfold);
unfold();
token.take();
become("loading");
greet();
