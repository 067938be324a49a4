"""The Agents SDK for Python, `agents.realtime`, as its guides use it."""

import asyncio
import logging
import sys

from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner
from agents.realtime.openai_realtime import OpenAIRealtimeWebSocketModel
from speech import API_KEY, BASE_URL, PAUSE, QUESTION, STORY, clip, pieces, tell

logging.basicConfig(level=logging.INFO)  # to standard error, where the test looks for warnings
URL = BASE_URL.replace("http", "ws", 1) + "/realtime?model=gpt-realtime"


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return "rain"


async def connected(talk, instructions="You are a helpful assistant."):
    agent = RealtimeAgent(name="assistant", instructions=instructions, tools=[weather])
    heard = {
        "transcription": {"model": "gpt-4o-mini-transcribe"},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 500, "interrupt_response": True},
    }
    settings = {"model_name": "gpt-realtime", "modalities": ["text"], "audio": {"input": heard}}
    runner = RealtimeRunner(agent, model=OpenAIRealtimeWebSocketModel(), config={"model_settings": settings})
    async with await runner.run(model_config={"url": URL, "api_key": API_KEY}) as session:
        await talk(session)


async def raw_events(session):
    """What the server sent; errors end the script."""
    async for event in session:
        assert event.type != "error", event
        if event.type == "raw_model_event" and event.data.type == "raw_server_event":
            yield event.data.data


async def speak(session, pcm):
    for piece in pieces(pcm):
        await session.send_audio(piece)


def text_of(event):
    return event["response"]["output"][0]["content"][0]["text"]


async def turn_by_voice():
    async def talk(session):
        await speak(session, clip() + PAUSE)
        transcript = answer = None
        async for event in raw_events(session):
            if event["type"] == "conversation.item.input_audio_transcription.completed":
                transcript = event["transcript"]
            elif event["type"] == "response.done":
                answer = text_of(event)
            if transcript and answer:
                break
        tell(transcript=transcript, answer=answer)

    await connected(talk)


async def typed():
    async def talk(session):
        await session.send_message(QUESTION)
        async for event in raw_events(session):
            if event["type"] == "response.done":
                break
        tell(answer=text_of(event))

    await connected(talk)


async def interruption():
    async def talk(session):
        await session.send_message(STORY)
        spoken, reasons = False, []
        async for event in raw_events(session):
            if event["type"] == "response.output_text.delta" and not spoken:
                spoken = True
                await speak(session, clip() + PAUSE)
            elif event["type"] == "response.done":
                if event["response"]["status"] == "completed":
                    break
                reasons.append(event["response"]["status_details"]["reason"])
        tell(reasons=reasons, answer=text_of(event))

    await connected(talk)


SCENARIOS = {each.__name__: each for each in (turn_by_voice, typed, interruption)}

if __name__ == "__main__":
    asyncio.run(SCENARIOS[sys.argv[1]]())
