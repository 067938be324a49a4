// voxd over HTTP: its status, and a key for one session.  The token: where it comes from and how long it is kept.
//
// The token comes in the fragment of the address, which browsers send to nobody, is taken out of it at once and lives as
// long as the tab.  What opens a session is not the token but a client secret that the token makes, good for a minute.

const STORE = "voxd-token";
const SECRET_S = 60;
const ANSWER_MS = 3000; // a network that swallows everything never says so

/** A refusal by voxd; `message` is its own sentence. */
export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `voxd answered with status ${status}.`);
    [this.status, this.code] = [status, body?.error?.code ?? ""];
  }

  get aboutKey() {
    return this.status === 401 || this.status === 429;
  }
}

export class Unreachable extends Error {}

export const token = {
  get() {
    return sessionStorage.getItem(STORE) ?? "";
  },
  /** Takes the token itself, or an address with it in the fragment. */
  set(text) {
    const value = text.includes("#") ? fragment(text.slice(text.indexOf("#"))) : text.trim();
    if (value) sessionStorage.setItem(STORE, value);
    else sessionStorage.removeItem(STORE);
  },
  /** Takes the token from the address bar, if it is there. */
  take() {
    const value = fragment(location.hash);
    if (!value) return false;
    this.set(value);
    history.replaceState(null, "", location.pathname + location.search);
    return true;
  },
};

function fragment(hash) {
  return (new URLSearchParams(hash.slice(1)).get("token") ?? "").trim();
}

/** Sends one request.  Raises Refused, Unreachable; TimeoutError if a signal says so. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  const key = options.key ?? token.get();
  if (key) headers.Authorization = `Bearer ${key}`;
  const given = { signal: AbortSignal.timeout(ANSWER_MS), ...options, headers, cache: "no-store", referrerPolicy: "no-referrer" };
  let answer;
  try {
    answer = await fetch(path, given);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Unreachable("voxd does not answer: start it, or open the tunnel to it again. This page keeps looking.");
  }
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => null));
  return answer;
}

/** The status, as `voxd status --json` prints it. */
export async function status() {
  return (await ask("/status")).json();
}

/** Gets a key `ek_…` that opens sessions of this configuration. */
export async function secret(session) {
  const body = JSON.stringify({ expires_after: { anchor: "created_at", seconds: SECRET_S }, session });
  const headers = { "Content-Type": "application/json" };
  return (await (await ask("/v1/realtime/client_secrets", { method: "POST", headers, body })).json()).value;
}

/** Why no session came about, as far as can be found out afterwards. */
export async function whyNot() {
  const now = await status();
  if (now.state !== "ready") return `voxd is not ready: ${now.progress || now.state}.`;
  if (now.sessions >= now.max_sessions) return `All ${now.max_sessions} sessions of this voxd are taken; try again later.`;
  return "The connection was refused before it was open.";
}
