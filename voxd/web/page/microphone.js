// The microphone: asks for it, listens to it, mutes and exchanges it.  It knows the browser's sound; not who gets it.

// The engines hear 16 kHz, and the browser resamples.  A browser that cannot (Firefox, of a microphone at another rate)
// throws; 48 kHz is what nearly all microphones have, and voxd resamples then.
const RATES = [16000, 48000];
const WISHES = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };

/** Why there is no microphone; the message says what the person can do. */
export class NoMicrophone extends Error {}

export class Microphone {
  /** Calls `hear({pcm, level}, at)` for each packet; `at`: when its last sample came, in ms of performance.now(). */
  static async open(deviceId, hear, gone) {
    if (!window.isSecureContext || !navigator.mediaDevices) throw new NoMicrophone(insecure());
    const stream = await asked(deviceId);
    const mine = new Microphone(stream);
    try {
      await mine.listen(hear);
    } catch (error) {
      mine.close();
      throw new NoMicrophone(`The browser cannot listen to this microphone: ${error.message}`);
    }
    stream.getAudioTracks()[0].addEventListener("ended", gone);
    return mine;
  }

  constructor(stream) {
    this.stream = stream;
    this.rate = RATES[0];
  }

  get track() {
    return this.stream.getAudioTracks()[0];
  }

  get deviceId() {
    return this.track.getSettings().deviceId ?? "";
  }

  async listen(hear) {
    let source = null;
    for (const rate of RATES) {
      this.context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
      this.rate = rate;
      try {
        source = this.context.createMediaStreamSource(this.stream);
        break;
      } catch (error) {
        await this.context.close();
        if (rate === RATES.at(-1)) throw error;
      }
    }
    await this.context.audioWorklet.addModule("/page/capture.js");
    const node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => hear(data, performance.now());
    source.connect(node);
    await this.context.resume();
  }

  /** Sends silence instead of sound: time goes on, so that an open turn comes to its end. */
  set muted(muted) {
    this.track.enabled = !muted;
  }

  close() {
    for (const track of this.stream.getTracks()) track.stop();
    if (this.context && this.context.state !== "closed") this.context.close();
  }
}

/** The inputs as [{id, name}]; browsers give names once the microphone may be used. */
export async function devices() {
  if (!navigator.mediaDevices) return [];
  const found = await navigator.mediaDevices.enumerateDevices();
  return found
    .filter((each) => each.kind === "audioinput" && each.deviceId)
    .map((each, number) => ({ id: each.deviceId, name: each.label || `Microphone ${number + 1}` }));
}

async function asked(deviceId) {
  const exact = deviceId ? { deviceId: { exact: deviceId } } : {};
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: { ...WISHES, ...exact } });
  } catch (error) {
    if (deviceId && error.name === "OverconstrainedError") return asked(""); // it was unplugged
    throw new NoMicrophone(reason(error));
  }
}

function reason(error) {
  switch (error.name) {
    case "NotAllowedError":
      return "The browser does not let this page use the microphone: allow it beside the address, then start again.";
    case "NotFoundError":
      return "There is no microphone here: connect one, then start again.";
    case "NotReadableError":
      return "The microphone cannot be opened: close the program that holds it, or choose another one, then start again.";
    default:
      return `The microphone cannot be opened: ${error.message}`;
  }
}

/** Why there is no microphone for a page that came neither from this machine nor encrypted. */
export function insecure() {
  return (
    `Browsers give no microphone to pages of ${location.host} over plain http. Open it as localhost, through ` +
    `ssh -T -L 8000:localhost:${location.port || 80} ${location.hostname} 'exec cat', or start voxd with --tls-cert and --tls-key.`
  );
}
