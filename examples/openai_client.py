"""Speaks a WAV file (mono, 24 kHz, 16 bit) to voxd with the `openai` package, and prints the words as they come.

pip install 'openai[realtime]'
VOXD_TOKEN=$(voxd token) python openai_client.py speech.wav [http://localhost:8000/v1]
"""

import asyncio
import base64
import os
import sys
import wave

from openai import AsyncOpenAI

PACKET = 480  # samples: 20 ms at 24 kHz


async def main(path: str, url: str = "http://localhost:8000/v1") -> None:
    client = AsyncOpenAI(base_url=url, api_key=os.environ["VOXD_TOKEN"])
    with wave.open(path) as clip:
        assert (clip.getnchannels(), clip.getframerate(), clip.getsampwidth()) == (1, 24_000, 2), "mono, 24 kHz, 16 bit"
        sound = clip.readframes(clip.getnframes())
    async with client.realtime.connect(model="voxd") as connection:
        # Without turn detection the client says when it has finished; `create_response` would not matter here.
        audio = {"input": {"transcription": {}, "turn_detection": None}}
        await connection.session.update(session={"type": "realtime", "audio": audio})
        for start in range(0, len(sound), 2 * PACKET):
            packet = base64.b64encode(sound[start : start + 2 * PACKET]).decode()
            await connection.input_audio_buffer.append(audio=packet)
        await connection.input_audio_buffer.commit()
        async for event in connection:
            if event.type == "conversation.item.input_audio_transcription.delta":
                print(event.delta, end="", flush=True)
            elif event.type == "conversation.item.input_audio_transcription.completed":
                print()
                return
            elif event.type == "error":
                sys.exit(event.error.message)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
