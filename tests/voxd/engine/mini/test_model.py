"""The device side of Voxtral Mini against transformers' own: spectrograms, embeddings, ids; memory; what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_mini import BEGIN_AUDIO, BEGIN_INST, END_INST, config, features, folder, reference
from tests.support.tiny_voxtral import BOS, EOS, RATE, Samples, speechlike
from voxd.engine.contract import Unusable
from voxd.engine.gpu import kv_cache
from voxd.engine.gpu.batch import Row
from voxd.engine.gpu.ops import Torch
from voxd.engine.gpu.sampling import choose, keep, uniform
from voxd.engine.mini.build import build, fewer, room_for
from voxd.engine.mini.interface import (
    BEFORE,
    ENCODER_HEAD,
    LAST_TOKEN,
    NONE_HIGHER,
    PAGE,
    PER_WINDOW,
    SPAN,
    WINDOW,
    MiniOptions,
    audio,
    bits,
    extremes,
)
from voxd.engine.mini.memory import load
from voxd.engine.mini.model import Capacity, MiniCheckpoint, MiniModel, fixed_bytes, page_bytes

torch.set_num_threads(1)
Table = np.ndarray[tuple[int, int], np.dtype[np.int32]]


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def fresh(seed: int, *, draws: bool = False, slots: int = 4) -> MiniModel:
    checkpoint = MiniCheckpoint.load(str(folder(seed)), "cpu", torch.float32, quiet)
    return MiniModel(checkpoint.model, checkpoint.extractor, Capacity(slots, 64, 4, 1500), Torch(), draws=draws)


@cache
def model(seed: int = 0) -> MiniModel:
    """The model; its state lies in slots and places only, which each test takes anew."""
    return fresh(seed)


# ── sound ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def spans(clip: Samples) -> list[np.ndarray[tuple[int], np.dtype[np.int16]]]:
    """The samples that the encoder is given for each window: the clip is padded with silence and reflected at both
    ends."""
    count = -(-len(clip) // WINDOW)
    whole = np.pad(np.round(clip * 32768).astype(np.int16), (0, count * WINDOW - len(clip)))
    whole = np.pad(whole, (BEFORE, BEFORE), mode="reflect")
    return [whole[i * WINDOW : i * WINDOW + SPAN] for i in range(count)]


def window(span: np.ndarray[tuple[int], np.dtype[np.int16]], place: int, highest: float = NONE_HIGHER) -> torch.Tensor:
    block = np.zeros((1, ENCODER_HEAD + SPAN // 2), np.int32)
    block[0, :ENCODER_HEAD] = place, bits(highest)
    block[0, ENCODER_HEAD:] = np.frombuffer(span.tobytes(), np.int32)
    return torch.from_numpy(block)


def mel_of(clip: Samples) -> torch.Tensor:
    """The windows of a clip as the engine computes them: each with the highest value of all others."""
    encoder = model()._encoder
    tops = [float(encoder.log_mel(samples_of(span)).max()) for span in spans(clip)]
    found = [encoder.features(samples_of(span), torch.tensor([max(tops)]))[0] for span in spans(clip)]
    return torch.stack(found)


def samples_of(span: np.ndarray[tuple[int], np.dtype[np.int16]]) -> torch.Tensor:
    return torch.from_numpy(span.copy()).float() / 32768


def loud_at_last(seconds: float) -> Samples:
    clip = speechlike(seconds, 5)
    clip[:WINDOW] *= 0.001
    return (np.round(clip * 32768) / 32768).astype(np.float32)


CLIPS: dict[str, Callable[[], Samples]] = {
    "one window": lambda: speechlike(7.0, 4),
    "three windows": lambda: speechlike(70.0, 4),
    "whole windows": lambda: speechlike(60.0, 6),
    "silence": lambda: np.zeros(RATE, np.float32),
    "the last is the loudest": lambda: loud_at_last(40.0),
}


@torch.inference_mode()
@pytest.mark.parametrize("name", CLIPS)
def test_spectrograms_are_those_of_the_processor(name: str) -> None:
    clip = CLIPS[name]()
    torch.testing.assert_close(mel_of(clip), features(reference(0).processor, [clip]), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_a_window_says_its_highest_and_lowest_value() -> None:
    """With a higher value elsewhere, the clamp changes exactly the windows whose lowest value is under it."""
    mini, span = model(), spans(loud_at_last(10.0))[0]
    log = mini._encoder.log_mel(samples_of(span))
    high, low = extremes(int(mini.encode(window(span, 1))))
    assert (high, low) == (float(log.max()), float(log.min()))
    alone = mini._heard[1].clone()
    for given, changes in ((high - 1, False), (min(high, low + 7.9), False), (high + 4, True)):
        assert extremes(int(mini.encode(window(span, 1, given)))) == (high, low)
        assert torch.equal(mini._heard[1], alone) is not changes
        assert changes is (low < max(high, given) - 8 and given > high)


@torch.inference_mode()
@pytest.mark.parametrize("seed", [0, 1])
def test_embeddings_are_those_of_transformers(seed: int) -> None:
    found, mini, clip = reference(seed), model(seed), speechlike(40.0, 3)
    want = found.model.get_audio_features(features(found.processor, [clip])).pooler_output
    for i, span in enumerate(spans(clip)):
        top = max(extremes(int(mini.encode(window(each, 2))))[0] for each in spans(clip))
        mini.encode(window(span, 2, top))
        torch.testing.assert_close(
            mini._heard[2], want[i * PER_WINDOW : (i + 1) * PER_WINDOW], atol=5e-4, rtol=1e-3, msg=f"window {i}"
        )


def test_embeddings_are_kept_and_put_back() -> None:
    mini = model()
    mini.encode(window(spans(speechlike(2.0, 1))[0], 1))
    kept, before = mini.keep(1), mini._heard[1].clone()
    mini.encode(window(spans(speechlike(2.0, 2))[0], 1))
    assert not torch.equal(mini._heard[1], before)
    mini.put(kept, 3)
    assert torch.equal(mini._heard[3], before)
    with pytest.raises(TypeError):
        mini.put(b"", 3)


# ── ids ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Conversation:
    """One sequence as the engine gives it to the device, in arbitrary pages."""

    def __init__(self, mini: MiniModel, slot: int, pages: Sequence[int]) -> None:
        self.mini, self.slot, self.pages, self.length = mini, slot, list(pages), 0

    def rows(self, sources: Sequence[int], wanted: int | None) -> Table:
        table = np.zeros((len(sources), 8), np.int32)
        for i, source in enumerate(sources):
            position = self.length + i
            table[i, :5] = self.slot, position, source, self.pages[position // PAGE], int(i == wanted)
        self.length += len(sources)
        return table

    def read(self, sources: Sequence[int], chunk: int, padding: int = 0) -> int:
        """Reads a prompt in chunks, padded as a captured step pads them."""
        said = -1
        for first in range(0, len(sources), chunk):
            part = sources[first : first + chunk]
            rows = self.rows(part, len(part) - 1)
            said = int(self.mini.prefill(torch.from_numpy(np.pad(rows, ((0, padding), (0, 0))))))
        return said

    def say(self, count: int, source: int = LAST_TOKEN) -> list[int]:
        return [int(self.mini.decode(torch.from_numpy(self.rows([source], 0)))) for _ in range(count)]


def heard(mini: MiniModel, clip: Samples, *places: int) -> list[int]:
    """The sources of a clip's embeddings."""
    found = []
    top = NONE_HIGHER
    for _ in range(2):
        for span, place in zip(spans(clip), places, strict=True):
            top = max(top, extremes(int(mini.encode(window(span, place, top))))[0])
    for place in places:
        found += [audio(place, index) for index in range(PER_WINDOW)]
    return found


def any_pages(seed: int, first: int = 1, last: int = 64) -> list[int]:
    return [int(page) for page in np.random.default_rng(seed).permutation(np.arange(first, last + 1))]


@pytest.mark.parametrize(
    ("seed", "chunk", "padding"), [(0, 512, 0), (1, 512, 5), (0, 100, 28), (1, 17, 47), (2, 64, 0)]
)
def test_a_clip_is_answered_as_by_generate(seed: int, chunk: int, padding: int) -> None:
    """The prompt is read in chunks of any size, the answer a token at a time."""
    mini, clip = model(seed), speechlike(4.0, 7)
    prompt = [BOS, BEGIN_INST, BEGIN_AUDIO, *heard(mini, clip, 1), END_INST]
    talk = Conversation(mini, 1, any_pages(seed))
    said = [talk.read(prompt, chunk, padding), *talk.say(30)]
    assert said == reference(seed).token_ids([24 if source < 0 else source for source in prompt], [clip], 31)


def test_a_long_clip_and_a_second_turn() -> None:
    """70 s in three windows, then the answer and another clip, read after what is there."""
    mini, clips = model(1), [speechlike(70.0, 8), speechlike(5.0, 9)]
    first = [BOS, BEGIN_INST, BEGIN_AUDIO, *heard(mini, clips[0], 1, 2, 3), END_INST]
    talk = Conversation(mini, 2, any_pages(3))
    said = [talk.read(first, 448), *talk.say(8)]
    second = [
        said[-1],
        EOS,
        BEGIN_INST,
        BEGIN_AUDIO,
        *heard(mini, clips[1], 4),
        1200,
        END_INST,
    ]  # the last was not input
    again = [talk.read(second, 448), *talk.say(15)]
    prompt = [24 if source < 0 else source for source in (*first, *said, *second[1:])]
    found = reference(1)
    assert said == found.token_ids([24 if source < 0 else source for source in first], clips[:1], 9)
    assert again == found.token_ids(prompt, clips, 16)


def test_sequences_in_one_batch_do_not_disturb_each_other() -> None:
    """Three sequences at different positions lie in random pages beside padding rows; one counts back and gives the
    same again."""
    mini, found, texts = model(0), reference(0), [[1100, 1200], [1300] * 70, [1010, 1400, 1500]]
    pages = any_pages(5)
    talks = [Conversation(mini, i + 1, pages[20 * i : 20 * i + 20]) for i in range(3)]
    prompts = [[BOS, BEGIN_INST, *text, END_INST] for text in texts]
    said = [[talk.read(prompt, 33)] for talk, prompt in zip(talks, prompts, strict=True)]
    for step in range(80):
        there = [i for i in range(3) if i != step % 4]
        rows = np.concatenate([talks[i].rows([LAST_TOKEN], 0) for i in there])
        token_ids = mini.decode(torch.from_numpy(np.pad(rows, ((0, 2), (0, 0))))).tolist()
        for i, each in zip(there, token_ids, strict=False):
            said[i].append(each)
        if step == 40:
            talks[1].length -= 12
            del said[1][-12:]
            talks[1].rows([], None)
            said[1].append(talks[1].say(1, source=said[1][-1])[0])
    for token_ids, prompt in zip(said, prompts, strict=True):
        assert len(token_ids) > 40
        assert token_ids == found.token_ids(prompt, [], len(token_ids))


def test_runners_take_rows_and_tables() -> None:
    """`build` gives runners that take a prompt as a table and single tokens as rows, and return the step's ids."""
    checkpoint = MiniCheckpoint.load(str(folder(0)), "cpu", torch.float32, quiet)
    device = build(checkpoint, MiniOptions(max_conversations=2, max_context=1024), quiet, eager=True)
    assert (device.context, device.slots.free, device.places.free) == (1024, 4, 16)
    assert device.pages.free == 2 * 1024 // PAGE, "no page that nobody can reach"
    slot, page = device.slots.take(), device.pages.take()
    prompt = [BOS, BEGIN_INST, 1100, END_INST]
    table = np.array([[slot, p, source, page, int(p == 3), 0, 0, 0] for p, source in enumerate(prompt)], np.int32)
    said = device.prefill.submit(table).token_ids()
    for position in range(4, 20):
        said += device.decode.submit([Row((slot, position, LAST_TOKEN, page, 1, 0, 0, 0), b"")]).token_ids()
    assert said == reference(0).token_ids(prompt, [], 17)
    span = spans(speechlike(1.0, 1))[0]
    flight = device.encoder.submit([Row((device.places.take(), bits(NONE_HIGHER)), span.tobytes())])
    assert -10 <= extremes(flight.token_ids()[0])[1] < extremes(flight.token_ids()[0])[0] < 4
    assert device.notes[0] == "Voxtral Mini on the CPU, float32, step by step"


# ── what is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_what_may_be_drawn_is_what_transformers_keeps(temperature: float, top_p: float) -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * torch.randn(6, 700, generator=torch.Generator().manual_seed(1))
    want = logits
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(50), TopPLogitsWarper(top_p)):
        want = warper(None, want)
    shares, token_ids = keep(logits, torch.full((6,), temperature), torch.full((6,), top_p), 50)
    torch.testing.assert_close(torch.zeros_like(logits).scatter(1, token_ids, shares), want.softmax(-1))


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    count, logits = 20_000, 2 * torch.randn(1, 40, generator=torch.Generator().manual_seed(2))
    shares, token_ids = keep(logits, torch.ones(1), torch.full((1,), 0.9), 50)
    heat, top_p, seed = torch.ones(count), torch.full((count,), 0.9), torch.full((count,), 7)
    drawn = choose(logits.expand(count, -1), heat, top_p, seed, torch.arange(count), 50)
    found = torch.bincount(drawn, minlength=40)[token_ids[0]].double()
    want = shares[0].double() * count
    assert not found[want == 0].any()
    there = want > 0
    degrees = int(there.sum()) - 1
    chi = float(((found - want)[there] ** 2 / want[there]).sum())
    assert chi < degrees + 4 * (2 * degrees) ** 0.5, "four standard deviations"


def test_numbers_of_one_seed_have_nothing_to_do_with_those_of_the_next() -> None:
    table = uniform(torch.arange(200).repeat_interleave(200), torch.arange(200).repeat(200)).view(200, 200)
    assert 0 <= float(table.min()) < 0.001 < 0.999 < float(table.max()) < 1
    off = torch.corrcoef(torch.cat([table, table.T]))
    off.fill_diagonal_(0)
    assert float(off.abs().max()) < 0.4
    assert len(set(table.flatten().tolist())) > 39_900


def test_what_is_drawn_depends_on_nothing_else_in_the_batch() -> None:
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(3))
    heat, top_p = torch.tensor([0.0, 1.0, 1.0, 0.7, 1.0]), torch.tensor([1.0, 1.0, 0.9, 0.5, 1.0])
    seed, position = torch.tensor([1, 1, 2, 2**31 - 1, 1]), torch.tensor([5, 5, 5, 9, 6])
    together = choose(logits, heat, top_p, seed, position, 50)
    assert together[0] == logits[0].argmax()
    for i in range(5):
        one = slice(i, i + 1)
        alone = choose(logits[one], heat[one], top_p[one], seed[one], position[one], 50)
        assert alone == together[i]
    many = choose(
        logits[1:2].expand(50, -1), torch.ones(50), torch.ones(50), torch.ones(50).long(), torch.arange(50), 50
    )
    assert len(set(many.tolist())) > 20
    assert many[5] == together[1]


def test_a_row_with_a_temperature_draws_and_one_without_does_not() -> None:
    mini, plain = fresh(0, draws=True), model(0)
    prompt = [BOS, BEGIN_INST, 1100, END_INST]
    talks = [Conversation(each, 1, any_pages(1)) for each in (plain, mini)]
    want, found = ([talk.read(prompt, 8), *talk.say(10)] for talk in talks)
    assert found == want
    talk, drawn = Conversation(mini, 1, any_pages(1)), []
    first = talk.rows(prompt, 3)
    for seed in (1, 1, 2):
        first[:, 5:] = bits(1.5), bits(0.95), seed
        token_ids = [int(mini.prefill(torch.from_numpy(first)))]
        talk.length = 4
        for _ in range(10):
            row = talk.rows([LAST_TOKEN], 0)
            row[:, 5:] = bits(1.5), bits(0.95), seed
            token_ids.append(int(mini.decode(torch.from_numpy(row))))
        drawn.append(token_ids)
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != want


# ── memory and checkpoints ──────────────────────────────────────────────────────────────────────────────────────────


def test_pages_say_where_positions_are() -> None:
    pages = kv_cache.Pages(1, 1, 2, page=64, pages=5, slots=3, context=200)
    assert pages.table.shape == (3, 4)
    rows = pages.put(torch.tensor([2, 2, 1]), torch.tensor([63, 64, 130]), torch.tensor([4, 1, 3]))
    assert rows.tolist() == [4 * 64 + 63, 64, 3 * 64 + 2]
    assert pages.table.tolist() == [[0, 0, 0, 0], [0, 0, 3, 0], [4, 1, 0, 0]]


def released() -> object:
    """The config of the model that is released."""
    from transformers import VoxtralConfig

    audio = {"model_type": "voxtral_encoder", "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
             "num_attention_heads": 20, "num_mel_bins": 128}  # fmt: skip
    text = {"model_type": "llama", "vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 8192,
            "num_hidden_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 131072, "tie_word_embeddings": False}  # fmt: skip
    return VoxtralConfig(audio_config=audio, text_config=text)


def test_the_released_model_takes_what_the_design_says() -> None:
    found = released()
    assert page_bytes(found, torch.bfloat16) == 64 * 122_880
    assert 9.3e9 < fixed_bytes(found, torch.bfloat16) < 9.4e9
    room = room_for(found, MiniOptions(), torch.bfloat16, 120 << 30)
    assert room.context == 8192
    assert 1.0e6 < room.pages * PAGE < 1.1e6
    assert room.slots == room.pages * PAGE // 2048


def test_the_weights_of_a_checkpoint_are_counted() -> None:
    found = reference(0).model
    assert fixed_bytes(config(), torch.float32) == 4 * sum(each.numel() for each in found.parameters())


def test_room_is_bounded_by_what_can_be_reached() -> None:
    found = released()
    assert (
        room_for(found, MiniOptions(max_conversations=3, max_context=2048), torch.bfloat16, 120 << 30).pages == 3 * 32
    )
    small = room_for(found, MiniOptions(), torch.bfloat16, 300 << 20)
    assert small.slots == 1
    short = room_for(found, MiniOptions(max_context=1024), torch.bfloat16, 40 << 30)
    assert short.slots == short.pages * PAGE // 1024
    assert short.pages > 0.99 * room_for(found, MiniOptions(), torch.bfloat16, 40 << 30).pages, "no memory is left over"
    assert small.context == small.pages * PAGE < 8192
    assert fewer(Capacity(100, 5000, 16, 4096), 16) == Capacity(16, 16 * 64, 16, 4096)


def refusal(name: str) -> str:
    with pytest.raises(Unusable) as refused:
        load(MiniOptions(model=name, device="cpu"), quiet, eager=True)
    return str(refused.value)


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    assert refusal("nobody/nothing").endswith("get it with: voxd pull nobody/nothing")
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    assert refusal(str(tmp_path)) == f"{tmp_path} is not a Voxtral Mini model but 'whisper'"


def test_without_memory_it_says_how_much_a_conversation_takes() -> None:
    checkpoint = MiniCheckpoint.load(str(folder(0)), "cpu", torch.float32, quiet)
    with pytest.raises(Unusable, match="1024 tokens take 0 MiB, and 0 MiB are free"):
        build(checkpoint, MiniOptions(), quiet, eager=True, memory=1000)


def test_special_ids_are_read_from_the_tokenizer() -> None:
    special = MiniCheckpoint.load(str(folder(0)), "cpu", torch.float32, quiet).special
    assert (special.bos, special.eos, special.begin_inst, special.end_inst, special.begin_audio) == (1, 2, 3, 4, 25)
    assert (special.begin_system, special.end_system, special.transcribe) == (17, 18, 34)
    assert len(special.pieces) == config().text_config.vocab_size
    assert b"".join(special.pieces[id] for id in special.encode("to the")) == b"to the"
