"""What every script here needs: the clip as a client would have it, and one line of JSON at the end for the test.

The environment names the server (OPENAI_BASE_URL, OPENAI_API_KEY), the clip (CLIP: mono, 16 bits, 24 kHz) and the words
of a question to type (QUESTION).  It runs in the environment of a client and knows nothing of voxd.
"""

import base64
import json
import os
import sys
import wave

BASE_URL = os.environ["OPENAI_BASE_URL"]
API_KEY = os.environ["OPENAI_API_KEY"]
QUESTION = os.environ["QUESTION"]
STORY = "Tell me a long story."  # is answered without end
RATE = 24_000
PAUSE = bytes(2 * RATE * 3 // 2)  # 1.5 s: a turn is over


def clip(path=os.environ["CLIP"]):
    """s16le at RATE."""
    with wave.open(path) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return file.readframes(file.getnframes())


def pieces(pcm, ms=100):
    step = 2 * RATE * ms // 1000
    return [pcm[at : at + step] for at in range(0, len(pcm), step)]


def encoded(pcm, ms=100):
    """As the API wants it: base64 of 100 ms each."""
    return [base64.b64encode(piece).decode() for piece in pieces(pcm, ms)]


def tell(**result):
    """One line for the test."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def restarted():
    """Tells the test that the server may be restarted, and returns when it was told to stop."""
    tell(ready=True)
    assert sys.stdin.readline() == "stopped\n"
