// The AI SDK (`ai`, `@ai-sdk/openai`): a file, and live transcription.
import { readFile } from "node:fs/promises";
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_streamTranscribe as streamTranscribe, transcribe } from "ai";
import { WebSocket } from "ws";
import { BASE_URL, CLIP, RATE, clip, main, pieces, tell } from "./speech.mjs";

const openai = createOpenAI({ baseURL: BASE_URL, webSocket: WebSocket });

const scenarios = {
  file: async () => {
    const found = await transcribe({ model: openai.transcription("whisper-1"), audio: await readFile(CLIP) });
    const newer = await transcribe({
      model: openai.transcription("gpt-4o-mini-transcribe"),
      audio: await readFile(CLIP),
      providerOptions: { openai: { language: "en", prompt: "Dickens", temperature: 0 } },
    });
    tell({ transcript: found.text, segments: found.segments.length, streamed: newer.text });
  },
  transcription: async () => {
    const audio = new ReadableStream({
      start(controller) {
        for (const piece of pieces(clip())) controller.enqueue(new Uint8Array(piece));
        controller.close();
      },
    });
    const result = streamTranscribe({
      model: openai.transcription("gpt-realtime-whisper"),
      audio,
      inputAudioFormat: { type: "audio/pcm", rate: RATE },
      providerOptions: { openai: { language: "en", streaming: { delay: "low" } } },
    });
    let deltas = "";
    for await (const part of result.fullStream) {
      if (part.type === "error") throw part.error;
      if (part.type === "transcript-delta") deltas += part.delta;
    }
    tell({ transcript: await result.text, streamed: deltas });
  },
};

await main(scenarios);
