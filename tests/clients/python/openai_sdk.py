"""The Python SDK `openai`, as its README and the guides of the Realtime API use it."""

import asyncio
import os
import sys
from pathlib import Path

from openai import AsyncOpenAI, OpenAI
from speech import PAUSE, QUESTION, STORY, clip, encoded, restarted, tell
from websockets.exceptions import InvalidStatus

SERVER_VAD = {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 500}
TRANSCRIBED = {"model": "gpt-4o-mini-transcribe", "language": "en"}


def session(**more):
    """The update of the guides, with every field that they show."""
    turn_detection = more.pop("turn_detection", SERVER_VAD)
    pcm = {"type": "audio/pcm", "rate": 24_000}
    heard = {
        "format": pcm,
        "transcription": TRANSCRIBED,
        "turn_detection": turn_detection,
        "noise_reduction": {"type": "near_field"},
    }
    spoken = {"format": pcm, "voice": "marin", "speed": 1.0}
    return {
        "type": "realtime",
        "model": "gpt-realtime",
        "output_modalities": ["text"],
        "instructions": "You are a helpful assistant.",
        "audio": {"input": heard, "output": spoken},
        **more,
    }


async def until(connection, *kinds):
    """The next event of one of these types."""
    async for event in connection:
        assert event.type != "error", event
        if event.type in kinds:
            return event
    raise AssertionError(f"the connection ended before {kinds}")


async def speak(connection, pcm):
    for audio in encoded(pcm):
        await connection.input_audio_buffer.append(audio=audio)


async def answer(connection):
    text = ""
    async for event in connection:
        assert event.type != "error", event
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type == "response.done":
            assert event.response.output[0].content[0].text == text
            return text
    raise AssertionError("no answer")


async def ask(connection, text):
    content = [{"type": "input_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    await connection.response.create()


async def turn_by_voice():
    async with AsyncOpenAI().realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session=session())
        await until(connection, "session.updated")
        await speak(connection, clip() + PAUSE)
        transcript = text = ""
        async for event in connection:
            assert event.type != "error", event
            if event.type == "conversation.item.input_audio_transcription.completed":
                transcript = event.transcript
            elif event.type == "response.output_text.delta":
                text += event.delta
            elif event.type == "response.done":
                break
        tell(transcript=transcript, answer=text)


async def turn_by_hand():
    async with AsyncOpenAI().realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session=session(turn_detection=None))
        await until(connection, "session.updated")
        await speak(connection, clip())
        await connection.input_audio_buffer.commit()
        await until(connection, "input_audio_buffer.committed")
        completed = await until(connection, "conversation.item.input_audio_transcription.completed")
        await connection.response.create()
        tell(transcript=completed.transcript, answer=await answer(connection))


def typed():
    """Without asyncio."""
    with OpenAI().realtime.connect(model="gpt-realtime") as connection:
        connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        content = [{"type": "input_text", "text": QUESTION}]
        connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        connection.response.create()
        text = ""
        for event in connection:
            assert event.type != "error", event
            if event.type == "response.output_text.delta":
                text += event.delta
            elif event.type == "response.done":
                break
        tell(answer=text)


async def interruption():
    """By the client's own cancel, then by voice."""
    async with AsyncOpenAI().realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session=session())
        await ask(connection, STORY)
        created = await until(connection, "response.created")
        await until(connection, "response.output_text.delta")
        await connection.response.cancel(response_id=created.response.id)
        reasons = [(await until(connection, "response.done")).response.status_details.reason]
        await ask(connection, STORY)
        await until(connection, "response.output_text.delta")
        await speak(connection, clip() + PAUSE)
        await until(connection, "input_audio_buffer.speech_started")
        reasons.append((await until(connection, "response.done")).response.status_details.reason)
        tell(reasons=reasons, answer=await answer(connection))


def messages():
    """A conversation that was had elsewhere, tools and all."""
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'}
    return [
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "My name is Ada."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello, Ada."}]},
        {**call, "id": "item_call"},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "It rains."}]},
    ]


async def history():
    async with AsyncOpenAI().realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session=session())
        kept, before = [], None
        for item in messages():
            previous = {} if before is None else {"previous_item_id": before}
            await connection.conversation.item.create(item=item, **previous)
            added = await until(connection, "conversation.item.added")
            before = added.item.id
            kept.append(added.item.type)
        await ask(connection, QUESTION)
        tell(kept=kept, answer=await answer(connection))


async def instructions():
    tool = {"type": "function", "name": "weather", "description": "of a city", "parameters": {"type": "object"}}
    async with AsyncOpenAI().realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session=session(instructions="Answer in French.", tools=[tool]))
        updated = await until(connection, "session.updated")
        await ask(connection, QUESTION)
        first = await answer(connection)
        await connection.session.update(session={"type": "realtime", "instructions": "Answer in Latin."})
        await until(connection, "session.updated")
        await ask(connection, QUESTION)
        tell(told=updated.session.instructions, answers=[first, await answer(connection)])


async def errors():
    """Each names its cause and costs nothing."""
    client = AsyncOpenAI()
    async with client.realtime.connect(model="gpt-realtime") as connection:
        found = []
        await connection.send({"type": "no.such.event", "event_id": "e1"})
        await connection.conversation.item.delete(item_id="nobody", event_id="e2")
        await connection.input_audio_buffer.commit(event_id="e3")
        while len(found) < 3:
            event = await connection.recv()
            if event.type == "error":
                found.append([event.error.event_id, event.error.code])
        await connection.session.update(session=session())
        await ask(connection, QUESTION)
        text = await answer(connection)
    try:
        async with client.copy(api_key="wrong").realtime.connect(model="gpt-realtime"):
            raise AssertionError("a wrong key is let in")
    except InvalidStatus as error:  # the SDK lets the exception of `websockets` through
        refused = error.response.status_code
    tell(errors=found, answer=text, refused=refused)


async def transcription():
    """Of a session for that: text comes before the turn is over."""
    async with AsyncOpenAI().realtime.connect(extra_query={"intent": "transcription"}) as connection:
        heard = {"format": {"type": "audio/pcm", "rate": 24_000}, "transcription": TRANSCRIBED}
        heard["turn_detection"] = SERVER_VAD
        await connection.session.update(session={"type": "transcription", "audio": {"input": heard}})
        await until(connection, "session.updated")
        await speak(connection, clip() + PAUSE)
        deltas = ""
        async for event in connection:
            assert event.type != "error", event
            if event.type == "conversation.item.input_audio_transcription.delta":
                deltas += event.delta
            elif event.type == "conversation.item.input_audio_transcription.completed":
                assert event.transcript == deltas
                break
        tell(transcript=deltas)


async def secret():
    client = AsyncOpenAI()
    made = await client.realtime.client_secrets.create(session=session(instructions="Answer in French."))
    async with client.copy(api_key=made.value).realtime.connect(model="gpt-realtime") as connection:
        created = await until(connection, "session.created")
        await ask(connection, QUESTION)
        tell(told=created.session.instructions, answer=await answer(connection))


def file():
    """`audio.transcriptions`, whole and streamed; and what models there are."""
    client = OpenAI()
    path = Path(os.environ["CLIP"])
    whole = client.audio.transcriptions.create(model="whisper-1", file=path, language="en")
    verbose = client.audio.transcriptions.create(
        model="whisper-1",
        file=path,
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )
    stream = client.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=path, stream=True)
    deltas = "".join(event.delta for event in stream if event.type == "transcript.text.delta")
    models = [model.id for model in client.models.list()]
    assert [client.models.retrieve(name).id for name in models] == models
    tell(transcript=whole.text, streamed=deltas, segments=len(verbose.segments), models=models)


async def restart():
    """The SDK's own way to come back: `on_reconnecting`, with its defaults of 5 tries."""
    codes = []

    def again(event):
        codes.append(event.close_code)

    async with AsyncOpenAI().realtime.connect(model="gpt-realtime", on_reconnecting=again) as connection:
        await ask(connection, QUESTION)
        first = await answer(connection)
        restarted()
        await until(connection, "session.created")
        await ask(connection, QUESTION)
        tell(answers=[first, await answer(connection)], close_code=codes[0])


SCENARIOS = {
    each.__name__: each
    for each in (
        *(turn_by_voice, turn_by_hand, typed, interruption, history, instructions, errors, transcription),
        *(secret, file, restart),
    )
}

if __name__ == "__main__":
    made = SCENARIOS[sys.argv[1]]()
    if made is not None:
        asyncio.run(made)
