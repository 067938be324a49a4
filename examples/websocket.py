"""Speaks a WAV file (mono, 16 bit, any of voxd's rates) to voxd over a bare WebSocket, and prints its final text.

pip install websockets
VOXD_TOKEN=$(voxd token) python websocket.py speech.wav [ws://localhost:8000/v1/realtime?intent=transcription]
"""

import base64
import json
import os
import sys
import wave

from websockets.sync.client import connect

path, *rest = sys.argv[1:]
url = rest[0] if rest else "ws://localhost:8000/v1/realtime?intent=transcription"
with wave.open(path) as clip:
    rate, sound = clip.getframerate(), clip.readframes(clip.getnframes())
with connect(url, additional_headers={"Authorization": f"Bearer {os.environ['VOXD_TOKEN']}"}) as link:
    audio = {"input": {"format": {"type": "audio/pcm", "rate": rate}, "turn_detection": None}}
    link.send(json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": audio}}))
    for start in range(0, len(sound), 32_000):
        packet = base64.b64encode(sound[start : start + 32_000]).decode()
        link.send(json.dumps({"type": "input_audio_buffer.append", "audio": packet}))
    link.send(json.dumps({"type": "input_audio_buffer.commit"}))
    for message in link:
        event = json.loads(message)
        if event["type"] == "error":
            sys.exit(event["error"]["message"])
        if event["type"] == "conversation.item.input_audio_transcription.completed":
            print(event["transcript"])
            break
