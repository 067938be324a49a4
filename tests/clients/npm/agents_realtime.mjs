// `@openai/agents-realtime` over WebSocket, as its guides use it; its transport takes a URL of one's own.
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession } from "@openai/agents-realtime";
import { API_KEY, BASE_URL, Inbox, PAUSE, QUESTION, STORY, clip, main, pieces, tell } from "./speech.mjs";

const url = `${BASE_URL.replace("http", "ws")}/realtime?model=gpt-realtime`;
const config = {
  outputModalities: ["text"],
  audio: {
    input: {
      transcription: { model: "gpt-4o-mini-transcribe" },
      turnDetection: { type: "server_vad", silenceDurationMs: 500, createResponse: true, interruptResponse: true },
    },
  },
};

// A session that is connected until the end of `talk`; its errors end the script.
async function connected(talk, instructions = "You are a helpful assistant.") {
  const agent = new RealtimeAgent({ name: "assistant", instructions });
  const session = new RealtimeSession(agent, { transport: new OpenAIRealtimeWebSocket({ url }), config });
  const inbox = new Inbox();
  session.on("error", ({ error }) => {
    throw new Error(JSON.stringify(error));
  });
  session.on("transport_event", inbox.put);
  await session.connect({ apiKey: API_KEY });
  await talk(session, inbox);
  session.close();
}

const of = (inbox, type) => inbox.until(event => event.type === type);
const answer = async inbox => (await of(inbox, "response.done")).response.output[0].content[0].text;
const speak = (session, pcm) => {
  for (const piece of pieces(pcm)) session.sendAudio(new Uint8Array(piece).buffer);
};

const scenarios = {
  turn_by_voice: () =>
    connected(async (session, inbox) => {
      speak(session, Buffer.concat([clip(), PAUSE]));
      let transcript, text;
      while (!transcript || !text) {
        const event = await inbox.next();
        if (event.type === "conversation.item.input_audio_transcription.completed") ({ transcript } = event);
        if (event.type === "response.done") text = event.response.output[0].content[0].text;
      }
      const kept = session.history.map(item => item.role);
      tell({ transcript, answer: text, kept });
    }),
  typed: () =>
    connected(async (session, inbox) => {
      session.sendMessage(QUESTION);
      tell({ answer: await answer(inbox) });
    }),
  interruption: () =>
    connected(async (session, inbox) => {
      session.sendMessage(STORY);
      await of(inbox, "response.output_text.delta");
      speak(session, Buffer.concat([clip(), PAUSE])); // its own interrupt() does nothing without sound to stop
      const reasons = [(await of(inbox, "response.done")).response.status_details.reason];
      tell({ reasons, answer: await answer(inbox) });
    }),
  instructions: () =>
    connected(async (session, inbox) => {
      session.sendMessage(QUESTION);
      const first = await answer(inbox);
      await session.updateAgent(new RealtimeAgent({ name: "latin", instructions: "Answer in Latin." }));
      await of(inbox, "session.updated");
      session.sendMessage(QUESTION);
      tell({ answers: [first, await answer(inbox)] });
    }, "Answer in French."),
  history: () =>
    connected(async (session, inbox) => {
      const message = (itemId, role, content) => ({ itemId, type: "message", role, status: "completed", content });
      session.updateHistory([
        message("item_1", "user", [{ type: "input_text", text: "My name is Ada." }]),
        message("item_2", "assistant", [{ type: "output_text", text: "Hello, Ada." }]),
      ]);
      session.sendMessage(QUESTION);
      tell({ answer: await answer(inbox) });
    }),
};

await main(scenarios);
