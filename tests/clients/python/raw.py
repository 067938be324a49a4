"""No SDK: the examples of OpenAI's guides with `websocket-client` and `websockets`, and the example client of vLLM."""

import asyncio
import base64
import json
import sys

import websocket
import websockets
from speech import API_KEY, BASE_URL, PAUSE, QUESTION, RATE, clip, encoded, pieces, tell

URL = BASE_URL.replace("http", "ws", 1) + "/realtime"


def guide():
    """With `websocket-client`, callbacks and header lines, as the guide on WebSockets has it."""
    texts = []

    def on_open(ws):
        content = [{"type": "input_text", "text": QUESTION}]
        item = {"type": "message", "role": "user", "content": content}
        ws.send(json.dumps({"type": "conversation.item.create", "item": item}))
        ws.send(json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}}))

    def on_message(ws, message):
        event = json.loads(message)
        assert event["type"] != "error", event
        if event["type"] == "response.output_text.done":
            texts.append(event["text"])
        elif event["type"] == "response.done":
            ws.close()

    app = websocket.WebSocketApp(
        URL + "?model=gpt-realtime",
        header=["Authorization: Bearer " + API_KEY, "OpenAI-Beta: realtime=v1"],
        on_open=on_open,
        on_message=on_message,
    )
    app.run_forever()
    tell(answer=texts[0])


async def transcription():
    """With `websockets`, as the guide on live transcription has it."""
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with websockets.connect(URL + "?intent=transcription", additional_headers=headers) as ws:
        heard = {
            "format": {"type": "audio/pcm", "rate": RATE},
            "noise_reduction": {"type": "near_field"},
            "transcription": {"model": "gpt-4o-transcribe", "prompt": "", "language": "en"},
            "turn_detection": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300},
        }
        session = {"type": "transcription", "audio": {"input": heard}}
        await ws.send(json.dumps({"type": "session.update", "session": session}))
        for audio in encoded(clip() + PAUSE):
            await ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        async for message in ws:
            event = json.loads(message)
            assert event["type"] != "error", event
            if event["type"] == "conversation.item.input_audio_transcription.completed":
                tell(transcript=event["transcript"])
                return


def at_16_khz():
    """Two of every three samples: enough for words."""
    samples = memoryview(clip()).cast("h")
    kept = bytearray()
    for at in range(0, len(samples) - 2, 3):
        kept += samples[at : at + 1].tobytes()
        kept += ((samples[at + 1] + samples[at + 2]) // 2).to_bytes(2, "little", signed=True)
    return bytes(kept)


async def vllm():
    """The flow of `openai_realtime_client.py` among vLLM's examples: its own dialect, 16 kHz."""
    async with websockets.connect(URL, additional_headers={"Authorization": f"Bearer {API_KEY}"}) as ws:
        created = json.loads(await ws.recv())
        assert created["type"] == "session.created", created
        await ws.send(json.dumps({"type": "session.update", "model": "mistralai/Voxtral-Mini-4B-Realtime-2602"}))
        await ws.send(json.dumps({"type": "input_audio_buffer.commit"}))
        for piece in pieces(at_16_khz()):
            audio = base64.b64encode(piece).decode()
            await ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        await ws.send(json.dumps({"type": "input_audio_buffer.commit", "final": True}))
        deltas = ""
        while True:
            event = json.loads(await ws.recv())
            if event["type"] == "transcription.delta":
                deltas += event["delta"]
            elif event["type"] == "transcription.done":
                assert event["text"] == deltas
                tell(transcript=deltas, tokens=event["usage"]["total_tokens"])
                return
            else:
                raise AssertionError(event)


SCENARIOS = {each.__name__: each for each in (guide, transcription, vllm)}

if __name__ == "__main__":
    made = SCENARIOS[sys.argv[1]]()
    if made is not None:
        asyncio.run(made)
