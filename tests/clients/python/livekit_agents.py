"""LiveKit Agents: RealtimeModel by itself, RealtimeModel in an AgentSession, and STT, as their documentation uses them.

No LiveKit server is needed for any of them: sound is put in, text is taken out.
"""

import asyncio
import logging
import sys

from livekit import rtc
from livekit.agents import Agent, AgentSession, llm, stt
from livekit.agents.utils import http_context
from livekit.agents.voice import io
from livekit.plugins import openai
from openai.types.realtime import realtime_audio_input_turn_detection as turns
from speech import BASE_URL, PAUSE, QUESTION, RATE, STORY, clip, pieces, restarted, tell

logging.basicConfig(level=logging.INFO)  # to standard error, where the test looks for warnings


def frames(pcm):
    return [rtc.AudioFrame(piece, RATE, 1, len(piece) // 2) for piece in pieces(pcm, ms=20)]


def model(**more):
    vad = turns.ServerVad(type="server_vad", create_response=True, interrupt_response=True, silence_duration_ms=500)
    return openai.realtime.RealtimeModel(
        **{"base_url": BASE_URL, "modalities": ["text"], "turn_detection": vad, "voice": "marin"} | more
    )


async def text_of(generation):
    """Everything that is said in one answer."""
    text = ""
    async for message in generation.message_stream:
        async for delta in message.text_stream:
            text += delta
    return text


class Listener:
    """What a session tells."""

    def __init__(self, session):
        self.transcripts, self.generations, self.reconnected = asyncio.Queue(), asyncio.Queue(), asyncio.Event()
        self.errors = []
        session.on("input_audio_transcription_completed", self._heard)
        session.on("generation_created", self.generations.put_nowait)
        session.on("session_reconnected", lambda _: self.reconnected.set())
        session.on("error", self.errors.append)

    def _heard(self, event):
        if event.is_final:
            self.transcripts.put_nowait(event.transcript)


async def with_session(talk, **more):
    """Opens a session, talks, and closes it as an agent does."""
    realtime = model(**more)
    session = realtime.session()
    listener = Listener(session)
    try:
        await talk(session, listener)
        assert not listener.errors, listener.errors
    finally:
        await session.aclose()
        await realtime.aclose()


# ── RealtimeModel ───────────────────────────────────────────────────────────────────────────────────────────────────


async def turn_by_voice():
    async def talk(session, listener):
        for frame in frames(clip() + PAUSE):
            session.push_audio(frame)
        generation = await listener.generations.get()
        tell(transcript=await listener.transcripts.get(), answer=await text_of(generation))

    await with_session(talk)


async def turn_by_hand():
    async def talk(session, listener):
        for frame in frames(clip()):
            session.push_audio(frame)
        session.commit_audio()
        generation = await session.generate_reply()
        tell(transcript=await listener.transcripts.get(), answer=await text_of(generation))

    await with_session(talk, turn_detection=None)


def typed_context(text=QUESTION):
    context = llm.ChatContext.empty()
    context.add_message(role="user", content=text)
    return context


async def typed():
    async def talk(session, _):
        await session.update_chat_ctx(typed_context())
        tell(answer=await text_of(await session.generate_reply()))

    await with_session(talk)


async def interruption():
    async def talk(session, listener):
        await session.update_chat_ctx(typed_context(STORY))
        generation = await session.generate_reply()
        async for message in generation.message_stream:
            async for _ in message.text_stream:
                session.interrupt()
        for frame in frames(clip() + PAUSE):
            session.push_audio(frame)
        await listener.generations.get()  # the one that was interrupted
        tell(answer=await text_of(await listener.generations.get()))

    await with_session(talk)


def past():
    """A conversation that was had elsewhere, tools and all."""
    context = llm.ChatContext.empty()
    context.add_message(role="system", content="Be brief.")
    context.add_message(role="user", content="My name is Ada.")
    context.add_message(role="assistant", content="Hello, Ada.")
    context.items.append(llm.FunctionCall(call_id="call_1", name="weather", arguments='{"city": "Paris"}'))
    context.items.append(llm.FunctionCallOutput(call_id="call_1", name="weather", output="rain", is_error=False))
    context.add_message(role="assistant", content="It rains in Paris.")
    context.add_message(role="user", content=QUESTION)
    return context


async def history():
    async def talk(session, _):
        await session.update_chat_ctx(past())
        kept = [item.type for item in session.chat_ctx.items]
        tell(kept=kept, answer=await text_of(await session.generate_reply()))

    await with_session(talk)


async def instructions():
    @llm.function_tool
    async def weather(city: str) -> str:
        """The weather of a city."""
        return "rain"

    async def talk(session, _):
        await session.update_instructions("Answer in French.")
        await session.update_tools([weather])
        await session.update_chat_ctx(typed_context())
        first = await text_of(await session.generate_reply())
        second = await text_of(await session.generate_reply(instructions="Answer in Latin."))
        tell(answers=[first, second])

    await with_session(talk)


async def restart():
    async def talk(session, listener):
        await session.update_instructions("Answer in French.")
        await session.update_chat_ctx(typed_context())
        first = await text_of(await session.generate_reply())
        restarted()
        await listener.reconnected.wait()
        gave_up = [error for error in listener.errors if not error.recoverable]
        listener.errors.clear()
        tell(answers=[first, await text_of(await session.generate_reply())], gave_up=len(gave_up))

    await with_session(talk)


# ── AgentSession ────────────────────────────────────────────────────────────────────────────────────────────────────


class Microphone(io.AudioInput):
    def __init__(self):
        super().__init__(label="clip")
        self.waiting = asyncio.Queue()

    def speak(self, pcm):
        for frame in frames(pcm):
            self.waiting.put_nowait(frame)

    async def __anext__(self):
        return await self.waiting.get()


class Screen(io.TextOutput):
    def __init__(self):
        super().__init__(label="screen", next_in_chain=None)
        self.text, self.answers = "", asyncio.Queue()

    async def capture_text(self, text):
        self.text += text

    def flush(self):
        self.answers.put_nowait(self.text)
        self.text = ""


async def agent():
    """A typed turn, then a spoken one."""
    microphone, screen, transcripts = Microphone(), Screen(), asyncio.Queue()
    session = AgentSession(llm=model())
    session.input.audio, session.output.transcription = microphone, screen

    @session.on("user_input_transcribed")
    def heard(event):
        if event.is_final:
            transcripts.put_nowait(event.transcript)

    errors = []
    session.on("error", lambda event: errors.append(str(event.error)))
    await session.start(Agent(instructions="You are a helpful assistant."))
    try:
        session.generate_reply(user_input=QUESTION)
        typed_answer = await screen.answers.get()
        microphone.speak(clip() + PAUSE)
        transcript, spoken_answer = await transcripts.get(), await screen.answers.get()
        roles = [item.role for item in session.history.items if item.type == "message"]
        tell(transcript=transcript, answer=spoken_answer, answers=[typed_answer, spoken_answer], roles=roles)
        assert not errors, errors
    finally:
        await session.aclose()


# ── STT ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def transcribed(recogniser):
    text, live = "", 0
    async with recogniser.stream() as stream:
        for frame in frames(clip() + PAUSE):
            stream.push_frame(frame)
        async for event in stream:
            if event.type == stt.SpeechEventType.INTERIM_TRANSCRIPT:
                live += 1
            elif event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                text = event.alternatives[0].text
                break
    await recogniser.aclose()
    tell(transcript=text, live=live)


async def transcription():
    """`use_realtime`, with the server's turns."""
    await transcribed(openai.STT(model="gpt-4o-mini-transcribe", use_realtime=True, base_url=BASE_URL))


async def transcription_of_context():
    """The newest of its models: several languages and key words, and its own voice activity detection."""
    await transcribed(
        openai.STT(model="gpt-live-transcribe", language=["en", "fr"], keywords=["epoch", "wisdom"], base_url=BASE_URL)
    )


async def file():
    recogniser = openai.STT(model="whisper-1", base_url=BASE_URL)
    event = await recogniser.recognize(frames(clip()))
    await recogniser.aclose()
    tell(transcript=event.alternatives[0].text)


async def within(scenario):
    """What a worker of LiveKit has around each job."""
    async with http_context.open():
        await scenario()


SCENARIOS = {
    each.__name__: each
    for each in (
        *(turn_by_voice, turn_by_hand, typed, interruption, history, instructions, restart, agent),
        *(transcription, transcription_of_context, file),
    )
}

if __name__ == "__main__":
    asyncio.run(within(SCENARIOS[sys.argv[1]]))
