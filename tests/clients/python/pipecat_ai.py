"""pipecat: its Realtime service and its live transcription, each in a pipeline as its examples build it."""

import asyncio
import sys

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    LLMTextFrame,
    LLMUpdateSettingsFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService
from pipecat.workers.runner import WorkerRunner
from speech import API_KEY, BASE_URL, PAUSE, QUESTION, RATE, STORY, clip, pieces, tell

URL = BASE_URL.replace("http", "ws", 1) + "/realtime"
logger.remove()
logger.add(sys.stderr, level="WARNING")  # where the test looks for warnings


class Collector(FrameProcessor):
    """Behind the service: what it has heard and said."""

    def __init__(self):
        super().__init__()
        self.transcripts, self.answers, self.texts, self.text = asyncio.Queue(), asyncio.Queue(), asyncio.Queue(), ""

    async def process_frame(self, frame: Frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.transcripts.put_nowait(frame.text)
        elif isinstance(frame, LLMTextFrame):
            self.text += frame.text
            self.texts.put_nowait(frame.text)
        elif isinstance(frame, LLMFullResponseEndFrame):
            self.answers.put_nowait(self.text)
            self.text = ""
        await self.push_frame(frame, direction)


def service(turn_detection=None, instructions="You are a helpful assistant."):
    audio = events.AudioConfiguration(
        input=events.AudioInput(
            format=events.PCMAudioFormat(),
            transcription=events.InputAudioTranscription(model="gpt-4o-mini-transcribe", language="en"),
            turn_detection=turn_detection or events.TurnDetection(silence_duration_ms=500),
        ),
    )
    properties = events.SessionProperties(output_modalities=["text"], audio=audio)
    settings = OpenAIRealtimeLLMService.Settings(
        model="gpt-realtime", system_instruction=instructions, session_properties=properties
    )
    return OpenAIRealtimeLLMService(api_key=API_KEY, base_url=URL, settings=settings)


async def speak(worker, pcm):
    for piece in pieces(pcm, ms=20):
        await worker.queue_frame(InputAudioRawFrame(piece, RATE, 1))


async def piped(parts, talk):
    """Runs a pipeline for as long as somebody talks."""
    worker = PipelineWorker(
        Pipeline(parts),
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
        cancel_on_idle_timeout=False,
    )
    errors, started = [], asyncio.Event()

    @worker.event_handler("on_pipeline_error")
    async def failed(_, frame: ErrorFrame):
        errors.append(frame.error)

    @worker.event_handler("on_pipeline_started")
    async def begin(*_):
        started.set()

    async def drive():
        await started.wait()
        try:
            await talk(worker)
        finally:
            await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    driving = asyncio.create_task(drive())
    await runner.run()
    await driving
    assert not errors, errors


async def conversation(messages, talk, **more):
    context, collector, ears = LLMContext(messages), Collector(), Collector()
    collector.transcripts = ears.transcripts  # transcripts of a realtime service go upstream
    pair = LLMContextAggregatorPair(context)
    parts = [pair.user(), ears, service(**more), collector, pair.assistant()]
    await piped(parts, lambda worker: talk(worker, collector, context))


async def turn_by_voice():
    async def talk(worker, collector, _):
        await speak(worker, clip() + PAUSE)
        tell(transcript=await collector.transcripts.get(), answer=await collector.answers.get())

    await conversation([], talk)


async def typed():
    async def talk(worker, collector, _):
        await worker.queue_frame(LLMRunFrame())
        tell(answer=await collector.answers.get())

    await conversation([{"role": "user", "content": QUESTION}], talk)


async def interruption():
    async def talk(worker, collector, _):
        await worker.queue_frame(LLMRunFrame())
        await collector.texts.get()
        await worker.queue_frame(InterruptionFrame())
        await speak(worker, clip() + PAUSE)
        answers = [await collector.answers.get()]
        while "You said" not in answers[-1]:
            answers.append(await collector.answers.get())
        tell(answer=answers[-1])

    await conversation([{"role": "user", "content": STORY}], talk)


def past():
    """A conversation that was had elsewhere, tools and all."""
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    return [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello, Ada."},
        {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "user", "content": QUESTION},
    ]


async def history():
    async def talk(worker, collector, _):
        await worker.queue_frame(LLMRunFrame())
        tell(answer=await collector.answers.get())

    await conversation(past(), talk)


async def instructions():
    async def talk(worker, collector, _):
        await worker.queue_frame(LLMRunFrame())
        first = await collector.answers.get()
        changed = OpenAIRealtimeLLMService.Settings(system_instruction="Answer in Latin.")
        await worker.queue_frame(LLMUpdateSettingsFrame(delta=changed))
        await worker.flush_pipeline()  # sound would overtake it
        await speak(worker, clip() + PAUSE)
        tell(answers=[first, await collector.answers.get()])

    await conversation([{"role": "user", "content": QUESTION}], talk, instructions="Answer in French.")


async def transcription():
    """The server finds the turns."""
    collector = Collector()
    heard = OpenAIRealtimeSTTService(
        api_key=API_KEY,
        base_url=URL,
        settings=OpenAIRealtimeSTTService.Settings(model="gpt-4o-mini-transcribe", noise_reduction="near_field"),
        turn_detection={"type": "server_vad", "silence_duration_ms": 500},
    )

    async def talk(worker):
        await speak(worker, clip() + PAUSE)
        tell(transcript=await collector.transcripts.get())

    await piped([heard, collector], talk)


SCENARIOS = {each.__name__: each for each in (turn_by_voice, typed, interruption, history, instructions, transcription)}

if __name__ == "__main__":
    asyncio.run(SCENARIOS[sys.argv[1]]())
