// Puts the page together: token → status → microphone → link → transcript, meter, screen; again when the link breaks.
//
// It knows the order of the steps and what the person does; not transports, what is drawn, nor how anything is measured.

import { Kept } from "./kept.js";
import { SampleClock, TrackClock } from "./latency.js";
import { open, reopen } from "./link.js";
import { Meter } from "./meter.js";
import { devices, insecure, Microphone, NoMicrophone } from "./microphone.js";
import { QUIET } from "./framer.js";
import { Refused, status, token } from "./server.js";
import { Transcript } from "./transcript.js";
import { announce, byId, Figures, level, linkLine, show, trouble, Turns } from "./view.js";

const PING_MS = 2000;
const SLOW_MS = 3000; // a ping without an answer for so long: the person is told
const GONE_MS = 6000; // a ping without an answer for so long: the link is given up
const ONSET_MS = 1000; // speech begins at most so long before voxd says so
const RATE = 16_000; // Hz, where there is no microphone
const LATE = 50; // packets that wait for the link, a second of sound: the person is told
const LOADING_MS = 2000; // between looks at a voxd that is not ready, or not there
const LONGEST_MS = 10_000; // a pause ends no turn below this while the key is held
const SHORTEST_MS = 160; // the silence that ends the turn once the key is up

const page = {
  state: "loading", // locked, loading, idle, starting, on, again: on, but the link has broken
  status: null,
  microphone: null,
  link: null,
  session: null, // the session as voxd describes it
  transcript: new Transcript(),
  meter: null,
  clock: null,
  held: false,
  muted: false,
  kept: null,
  pinged: [], // times of pings without an answer
  owedAt: 0, // sound captured before this is text, as far as a page in a call can know
  leaves: false, // voxd has said that it stops
  noUdp: "", // why a call has failed; no other is tried
  lostCall: "", // why the call broke that this link replaces
  unmet: "", // what the person was told when /status could not be had
  behind: "", // what the person was told about sound that waits
  slow: false,
};
const turns = new Turns(byId("turns"), "voxd");
const figures = new Figures();

const WELCOME = { loading: "One moment", on: "Say something", again: "One moment" };
const pushes = () => byId("push").checked;
const answers = () => page.status?.engines.respond !== null;
const live = () => page.state === "on";
const busy = () => ["starting", "on", "again"].includes(page.state);

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
  byId("welcome-title").textContent = WELCOME[state] ?? "Start listening, then speak";
  const runs = live() || state === "again";
  byId("start").disabled = state === "loading";
  byId("start").setAttribute("aria-disabled", String(state === "starting")); // disabled, it would lose the focus
  byId("start").textContent = runs ? "End" : state === "starting" ? "Starting …" : "Start listening";
  byId("start").classList.toggle("first", !runs);
  show("level", page.microphone !== null);
  show("mute", runs && page.microphone && !pushes());
  show("hold", runs && page.microphone && pushes());
  show("stop", live() && page.transcript.answering);
  if (!live()) linkLine({ idle: "not connected", again: "coming back" }[state] ?? state, "");
}

function speech(state) {
  document.body.dataset.speech = state;
  if (!live()) return;
  const slow = page.slow ? " · voxd has not answered for 3 s: the network is slow" : "";
  const silent = page.muted && !pushes() ? "muted" : state;
  linkLine(`${silent} · ${page.link.kind}`, page.link.why + slow + page.behind);
}

function unlock(why) {
  byId("locked-why").textContent = why;
  become("locked");
  byId("token").focus();
}

/** Handles an error of HTTP, wherever it came up. */
function told(error) {
  if (error instanceof Refused && error.aboutKey) unlock(token.get() ? `It refused the token: ${error.message}` : "");
  else {
    trouble(error.message);
    if (page.state === "starting") become("idle");
  }
}

// ── voxd ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Asks for voxd's status until it is ready. */
async function greet() {
  clearTimeout(page.later);
  try {
    page.status = await status();
  } catch (error) {
    if (busy()) return; // a session under way finds out by itself
    told(error);
    page.unmet = error.message;
    if (page.state !== "locked") page.later = setTimeout(greet, LOADING_MS);
    return;
  }
  if (busy()) return;
  if (!window.isSecureContext) trouble(insecure());
  else if (byId("trouble").textContent === page.unmet) trouble("");
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
    format: { type: "audio/pcm", rate: page.microphone?.rate ?? RATE },
    transcription: page.status.engines.transcribe ? {} : null,
  };
  return { type: answers() ? "realtime" : "transcription", audio: { input } };
}

/** Starts a session.  `listens`: with the microphone; else only to type. */
async function start(listens) {
  trouble("");
  become("starting");
  try {
    page.kept = null;
    if (listens) await listen(byId("device").value);
    page.kept ??= new Kept(RATE);
    page.status = await status();
    Object.assign(page, { transcript: new Transcript(), meter: null, session: null, leaves: false, lostCall: "" });
    const { status: how, noUdp } = page;
    const link = await open({ ...wishes(), status: how, noUdp, track: page.microphone?.track ?? null });
    if (link.blocked) page.noUdp = link.why;
    begun(link);
  } catch (error) {
    hush();
    if (error instanceof NoMicrophone) {
      trouble(error.message);
      become("idle");
    } else told(error);
  }
}

/** The configuration of a session as this page wants it, over whatever link. */
function wishes() {
  return {
    session: configuration(),
    query: answers() ? {} : { intent: "transcription" },
    told: receive,
    closed: broken,
    trying: (kind) => linkLine("connecting", `trying ${kind}`),
  };
}

function begun(link) {
  page.link = link;
  if (!page.meter) renew();
  [page.pinged, page.behind, page.slow, page.owedAt] = [[], "", false, performance.now()];
  become("on");
  speech(page.transcript.speakingIn ? "speaking" : "listening");
  announce(`Connected by ${link.kind}`);
  mute(page.muted);
  page.pinger = setInterval(ping, PING_MS);
  for (let count = 0; count < 4; count += 1) ping();
}

async function listen(deviceId) {
  hush();
  page.microphone = await Microphone.open(deviceId, hear, () => {
    trouble("The microphone is gone: choose another one, or end and start again.");
    hush();
    become(page.state);
  });
  page.kept = new Kept(page.microphone.rate);
  mute(page.muted); // before the first packet is kept
  const found = await devices();
  const options = found.map(({ id, name }) => new Option(name, id, false, id === page.microphone.deviceId));
  byId("device").replaceChildren(...options);
}

function hush() {
  page.microphone?.close();
  page.microphone = null;
  level(QUIET);
}

/** Told that the link ended by itself. */
async function broken({ reason, final }) {
  clearInterval(page.pinger);
  if (final && !page.leaves) {
    ended(reason);
    return;
  }
  const { kept } = page;
  kept.cut();
  page.lostCall = page.link.kind === "WebRTC" ? reason : "";
  if (page.lostCall) kept.since(page.owedAt);
  page.link = null;
  become("again");
  trouble(`${reason} Trying again.${page.microphone ? " What you say meanwhile is kept, up to 30 s." : ""}`);
  const going = () => page.state === "again" && page.kept === kept;
  const resume = () => (page.lostCall || !kept.token ? null : kept);
  const trying = (why) => going() && linkLine("coming back", why);
  try {
    const link = await reopen({ ...wishes(), resume, trying, going });
    if (!link) return;
    trouble("");
    begun(link);
  } catch (error) {
    if (going()) ended(`${reason} It did not come back: ${error.message}`);
  }
}

/** Gives what is kept to a new session, which replaces one that voxd no longer has. */
function anew() {
  for (const op of page.transcript.disconnected(true)) turns.apply(op, performance.now(), () => {});
  const why = page.lostCall ? `${page.lostCall} It goes on by WebSocket` : "voxd no longer has this conversation";
  turns.apply({ op: "note", text: `${why}: this is a new one, which does not know what was said before.` });
}

/** Begins the figures of a session, whose positions are its own. */
function renew() {
  page.clock = page.link.kind === "WebRTC" ? new TrackClock() : new SampleClock();
  page.meter = new Meter(page.clock);
  if (page.clock instanceof SampleClock) for (const [end, at] of page.kept.times()) page.clock.record(end, at);
}

function ended(reason) {
  clearInterval(page.pinger);
  for (const op of page.transcript.disconnected()) turns.apply(op, performance.now(), () => {});
  hush();
  page.link = null;
  become("idle");
  announce("The conversation has ended");
  if (reason) trouble(reason);
  greet();
}

function stop() {
  page.link?.close();
  trouble("");
  ended("");
}

// ── sound ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function hear({ pcm, level: loud }, at) {
  level(loud);
  if (!page.microphone) return;
  const end = page.kept.add(pcm, at);
  if (!live() || page.link.kind === "WebRTC") return;
  page.clock.record(end, at);
  page.link.pump(page.kept);
  const { waiting, lost } = page.kept;
  const late = waiting > LATE ? ` · ${Math.round(waiting / 50)} s of sound wait for the network` : "";
  const behind = late + (lost ? ` · ${(lost / 50).toFixed(1)} s of sound lost, the network is too slow` : "");
  if (behind === page.behind) return;
  page.behind = behind;
  speech(document.body.dataset.speech);
}

function mute(muted) {
  page.muted = muted;
  if (page.microphone) page.microphone.muted = pushes() ? !page.held : muted;
  byId("mute").setAttribute("aria-pressed", String(muted));
  byId("mute").textContent = muted ? "Unmute" : "Mute";
  speech(document.body.dataset.speech ?? "listening");
}

/** Push-to-talk: while the key is down no pause ends the turn; when it is up, silence is sent and soon ends it. */
function hold(held) {
  if (!pushes() || page.held === held || !page.microphone) return;
  page.held = held;
  silence();
  mute(page.muted);
  byId("hold").classList.toggle("held", held);
}

function silence() {
  if (!live() || !page.session) return; // it is told when a session is there
  const ms = !pushes() ? page.silence : page.held ? LONGEST_MS : SHORTEST_MS;
  const vad = { ...page.session.audio.input.turn_detection, silence_duration_ms: ms };
  page.link.send({ type: "session.update", session: { audio: { input: { turn_detection: vad } } } });
}

function modeChanged() {
  page.held = false;
  silence();
  mute(page.muted);
  become(page.state);
  speech("listening");
}

// ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────

function ping() {
  const t0 = performance.now();
  if (t0 - page.pinged[0] > GONE_MS) {
    page.link.cut();
    broken({ reason: `voxd has not answered for ${GONE_MS / 1000} s.`, final: false });
    return;
  }
  page.link.send({ type: "voxd.ping", ping_id: t0, t0 });
  page.pinged.push(t0);
  const slow = t0 - page.pinged[0] > SLOW_MS;
  if (slow !== page.slow) {
    page.slow = slow;
    speech(document.body.dataset.speech);
  }
}

function receive(event, at) {
  if (!live()) return;
  page.kept.receive(event);
  if (!page.transcript.owes) page.owedAt = at - (event.type === "input_audio_buffer.speech_started" ? ONSET_MS : 0);
  if (event.type === "voxd.pong") {
    page.pinged = page.pinged.filter((t0) => t0 > event.t0);
    if (page.clock instanceof TrackClock) page.clock.ponged(event.t0, event.t1_us, event.t2_us, at);
    return;
  }
  if (event.type === "voxd.warning" && event.code === "going_away") page.leaves = true;
  if (event.type === "voxd.resumed") silence(); // the key may have changed while there was no link
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
  const first = page.session === null;
  page.session = session;
  if (session.voxd?.targets) figures.about(answers(), session.voxd.targets);
  if (type !== "session.created") return;
  if (!first) anew();
  renew();
  page.silence = session.audio.input.turn_detection.silence_duration_ms;
  if (pushes()) silence();
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
byId("start").addEventListener("click", () => {
  if (page.state === "idle") start(true);
  else if (page.state !== "starting") stop();
});
byId("mute").addEventListener("click", () => mute(!page.muted));
byId("push").addEventListener("change", modeChanged);
byId("hold").addEventListener("pointerdown", () => hold(true));
for (const over of ["pointerup", "pointerleave", "pointercancel"]) byId("hold").addEventListener(over, () => hold(false));
byId("device").addEventListener("change", async () => {
  if (!live() && page.state !== "again") return;
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
  return event.code === "Space" && page.microphone && pushes() && !event.target.closest("input:not(#push), select, summary");
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
