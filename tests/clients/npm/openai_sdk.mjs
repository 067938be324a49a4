// The npm SDK `openai`, as its README uses it.  It knows wss: only.
import { createReadStream } from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import { CLIP, Inbox, PAUSE, QUESTION, STORY, clip, main, pieces, restarted, tell } from "./speech.mjs";

const session = (more = {}) => ({
  type: "realtime",
  model: "gpt-realtime",
  output_modalities: ["text"],
  instructions: "You are a helpful assistant.",
  audio: {
    input: {
      format: { type: "audio/pcm", rate: 24000 },
      noise_reduction: { type: "near_field" },
      transcription: { model: "gpt-4o-mini-transcribe", language: "en" },
      turn_detection: { type: "server_vad", silence_duration_ms: 500 },
    },
  },
  ...more,
});

// An open connection, every event of it in an inbox, until the end of `talk`.
async function connected(talk, more) {
  const link = new OpenAIRealtimeWS({ model: "gpt-realtime", ...more });
  const inbox = new Inbox();
  link.on("event", inbox.put);
  link.on("error", error => error.error || inbox.put({ type: "error", error: String(error) })); // the API's are events, too
  await inbox.until(event => event.type === "session.created" || refuse(event));
  link.send({ type: "session.update", session: session() });
  await inbox.until(event => event.type === "session.updated" || refuse(event));
  await talk(link, inbox);
  const closed = new Promise(done => link.socket.on("close", done));
  link.close();
  await closed;
}

function refuse(event) {
  if (event.type === "error") throw new Error(JSON.stringify(event));
  return false;
}

const of = (inbox, type) => inbox.until(event => event.type === type || refuse(event));
const speak = (link, pcm) => {
  for (const piece of pieces(pcm)) link.send({ type: "input_audio_buffer.append", audio: piece.toString("base64") });
};
const ask = (link, text) => {
  const item = { type: "message", role: "user", content: [{ type: "input_text", text }] };
  link.send({ type: "conversation.item.create", item });
  link.send({ type: "response.create" });
};
const answer = async inbox => (await of(inbox, "response.done")).response.output[0].content[0].text;

const scenarios = {
  turn_by_voice: () =>
    connected(async (link, inbox) => {
      speak(link, Buffer.concat([clip(), PAUSE]));
      let transcript, text;
      while (!transcript || !text) {
        const event = await inbox.next();
        refuse(event);
        if (event.type === "conversation.item.input_audio_transcription.completed") ({ transcript } = event);
        if (event.type === "response.done") text = event.response.output[0].content[0].text;
      }
      tell({ transcript, answer: text });
    }),
  typed: () =>
    connected(async (link, inbox) => {
      ask(link, QUESTION);
      tell({ answer: await answer(inbox) });
    }),
  interruption: () =>
    connected(async (link, inbox) => {
      ask(link, STORY);
      await of(inbox, "response.output_text.delta");
      link.send({ type: "response.cancel" });
      const reasons = [(await of(inbox, "response.done")).response.status_details.reason];
      ask(link, STORY);
      await of(inbox, "response.output_text.delta");
      speak(link, Buffer.concat([clip(), PAUSE]));
      reasons.push((await of(inbox, "response.done")).response.status_details.reason);
      tell({ reasons, answer: await answer(inbox) });
    }),
  errors: () =>
    connected(async (link, inbox) => {
      link.send({ type: "conversation.item.delete", item_id: "nobody", event_id: "e1" });
      const { error } = await inbox.until(event => event.type === "error");
      ask(link, QUESTION);
      tell({ errors: [[error.event_id, error.code]], answer: await answer(inbox) });
    }),
  secret: async () => {
    const client = new OpenAI();
    const made = await client.realtime.clientSecrets.create({ session: session({ instructions: "Answer in French." }) });
    const link = new OpenAIRealtimeWS({ model: "gpt-realtime" }, new OpenAI({ apiKey: made.value }));
    const inbox = new Inbox();
    link.on("event", inbox.put);
    const created = await of(inbox, "session.created");
    ask(link, QUESTION);
    tell({ told: created.session.instructions, answer: await answer(inbox) });
    link.close();
  },
  file: async () => {
    const client = new OpenAI();
    const file = () => createReadStream(CLIP);
    const whole = await client.audio.transcriptions.create({ model: "whisper-1", file: file() });
    const stream = await client.audio.transcriptions.create({ model: "gpt-4o-transcribe", file: file(), stream: true });
    let streamed = "";
    for await (const event of stream) if (event.type === "transcript.text.delta") streamed += event.delta;
    const models = [];
    for await (const model of client.models.list()) models.push((await client.models.retrieve(model.id)).id);
    tell({ transcript: whole.text, streamed, models });
  },
  restart: async () => {
    const link = new OpenAIRealtimeWS({ model: "gpt-realtime", reconnect: {} });
    const inbox = new Inbox();
    link.on("event", inbox.put);
    link.on("error", () => {}); // told while it tries
    await of(inbox, "session.created");
    ask(link, QUESTION);
    const first = await answer(inbox);
    await restarted();
    await inbox.until(event => event.type === "session.created");
    ask(link, QUESTION);
    tell({ answers: [first, await answer(inbox)] });
    link.close();
  },
};

await main(scenarios);
