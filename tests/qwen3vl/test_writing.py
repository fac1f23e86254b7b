"""A text that Qwen3-VL writes: token for token what plain transformers' generation gives."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
from tokenizers import Tokenizer
from transformers import Qwen3VLForConditionalGeneration

from zvl_ext.errors import Stopped
from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.qwen3vl.checkpoint import EMBEDDING, HEAD, Checkpoint
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.layers import watched
from zvl_ext.qwen3vl.tokenizer import Words
from zvl_ext.qwen3vl.tokenizer import tokenizer as words_of
from zvl_ext.reference import Reference, open_reference
from zvl_ext.sequence import build_sequence

QUESTION = "What is this?"
TOKENS = 256


class Recorder:
    """A writer that keeps ids and has enough at some number of them."""

    def __init__(self, enough: int = 1000):
        self.ids: list[int] = []
        self._enough = enough

    def __call__(self, id: int) -> bool:
        self.ids.append(id)
        return len(self.ids) >= self._enough


Plain = Qwen3VLForConditionalGeneration


@pytest.fixture(scope="module")
def models(tokenizer: Tokenizer) -> dict[bool, Plain]:
    return {tied: tiny.make_writer(tokenizer, tied) for tied in (True, False)}


@pytest.fixture(scope="module")
def opened(models: dict[bool, Plain], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("writing")
    return {
        tied: open_checkpoint(str(tiny.save_folder(model, tokenizer, folder / f"tied-{tied}")))
        for tied, model in models.items()
    }


@pytest.fixture(scope="module")
def words(opened: dict[bool, Checkpoint]) -> Words:
    return words_of(opened[True].path)


def plain(model: Plain, tokenizer: Tokenizer, picture: Reference, count: int, ends: list[int]) -> list[int]:
    """What transformers itself writes."""
    pixels = tiny.plain_pixels(picture.image, TOKENS)
    images = int(pixels["image_grid_thw"].prod()) // 4
    ids, _ = tiny.plain_ids(tokenizer, QUESTION, images)
    model.model.rope_deltas = None
    with torch.no_grad():
        output = model.generate(
            **tiny.plain_inputs(model, ids, pixels), max_new_tokens=count, do_sample=False, eos_token_id=ends,
            pad_token_id=ends[0],
        )  # fmt: skip
    return output[0, len(ids) :].tolist()


def written(
    extractor: StandaloneExtractor, words: Words, picture: Reference, count: int, ends: list[int],
    writer: Recorder | None = None,
) -> list[int]:  # fmt: skip
    writer, checkpoint = writer or Recorder(), extractor.checkpoint
    ids = words(f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    sequence = build_sequence(ids, checkpoint.grid(picture, TOKENS), words, vision=checkpoint.vision_tokens)
    extractor.write(sequence, picture, TOKENS, writer, count, ends)
    return writer.ids


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "a head of its own"])
@pytest.mark.parametrize("size", [(160, 96), (64, 64), (33, 400)])
def test_it_is_what_transformers_writes(models, opened, tokenizer, words, tied, size):
    picture = open_reference(tiny.picture(*size))
    wanted = plain(models[tied], tokenizer, picture, 24, [1])
    assert len(set(wanted)) > 2
    extractor = StandaloneExtractor(opened[tied])
    assert written(extractor, words, picture, 24, [1]) == wanted
    assert written(extractor, words, picture, 24, [1]) == wanted, "and again"
    assert written(extractor, words, picture, 1, [1]) == wanted[:1]


def test_it_depends_on_the_picture(opened, words):
    extractor = StandaloneExtractor(opened[False])
    pictures = [open_reference(tiny.picture(96, 96, seed=seed)) for seed in range(3)]
    assert len({tuple(written(extractor, words, picture, 24, [1])) for picture in pictures}) > 1


def test_it_ends_at_an_end_and_where_it_is_full(models, opened, tokenizer, words, reference):
    free = plain(models[False], tokenizer, reference, 24, [1])
    end = next(id for id in free[4:] if id not in free[:4])
    extractor = StandaloneExtractor(opened[False])
    assert written(extractor, words, reference, 24, [end, 1]) == free[: free.index(end) + 1]
    assert written(extractor, words, reference, 24, [1], Recorder(3)) == free[:3]


def test_reading_before_and_after_it_is_the_same(opened, words, reference):
    """One model reads and writes; its layers are loaded as they are needed, and nothing of one is left for the
    other."""
    checkpoint = opened[False]
    ids = words(f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    sequence = build_sequence(ids, checkpoint.grid(reference, TOKENS), words, vision=checkpoint.vision_tokens)
    extractor = StandaloneExtractor(checkpoint)
    before, _ = extractor.extend([sequence], reference, TOKENS, 2)
    said = written(extractor, words, reference, 12, [1])
    after, _ = extractor.extend([sequence], reference, TOKENS, 2)
    assert all(torch.equal(a, b) for a, b in zip(before.tensors().values(), after.tensors().values()))
    assert said == written(StandaloneExtractor(checkpoint), words, reference, 12, [1])


def test_what_is_raised_between_layers_ends_it_and_leaves_the_model_whole(opened, words, reference):
    extractor = StandaloneExtractor(opened[False])
    wanted = written(extractor, words, reference, 12, [1])
    calls = [0]

    def check() -> None:
        calls[0] += 1
        if calls[0] == 13:  # in the third token
            raise Stopped

    writer = Recorder()
    with pytest.raises(Stopped), watched(extractor._model.module.language_model.layers, check):
        written(extractor, words, reference, 12, [1], writer)
    assert writer.ids == wanted[:2]
    assert written(extractor, words, reference, 12, [1]) == wanted


@pytest.mark.parametrize("kind", tiny.FP8_KINDS)
def test_weights_in_eight_bits_write_what_the_weights_they_stand_for_do(
    models, tokenizer, words, reference, tmp_path, kind
):
    model = models[True]
    stored, meant = tiny.quantize(tiny.inner_state(model), kind)
    path = tiny.save_single(stored, tmp_path / "one.safetensors", metadata=tiny.config_metadata(model.config))
    other = tiny.make_writer(tokenizer, True)
    other.model.load_state_dict({name: value.float() for name, value in meant.items()})
    other.lm_head.weight = other.get_input_embeddings().weight
    extractor = StandaloneExtractor(open_checkpoint(str(path)), dtype="float32")
    assert written(extractor, words, reference, 12, [1]) == plain(other, tokenizer, reference, 12, [1])


def test_values_that_are_not_finite_are_refused(opened, words, reference, refused):
    extractor = StandaloneExtractor(opened[True])
    written(extractor, words, reference, 1, [1])
    extractor._model.module.language_model.norm.weight.fill_(torch.inf)
    with refused("not finite"):
        written(extractor, words, reference, 5, [1])


# --- the layer of the logits


@pytest.mark.parametrize(
    ("said", "there", "head"),
    [
        (None, False, EMBEDDING), (None, True, HEAD), (True, True, EMBEDDING), (True, False, EMBEDDING),
        (False, True, HEAD),
    ],
)  # fmt: skip
def test_it_is_the_embedding_unless_the_files_say_otherwise(models, opened, tmp_path, said, there, head):
    config = models[True].config.to_dict() | {"tie_word_embeddings": said}
    if said is None:
        del config["tie_word_embeddings"]
    import json

    from safetensors.torch import save_file

    state = tiny.in_layout(tiny.inner_state(models[True]), "model.layers + visual")
    more = {"lm_head.weight": torch.zeros(tiny.EMBEDDINGS, 64)} if there else {}
    save_file(state | more, str(tmp_path / "one.safetensors"), {"config": json.dumps(config, default=str)})
    checkpoint = open_checkpoint(str(tmp_path / "one.safetensors"))
    checkpoint.require_words()
    assert checkpoint.head == head


def test_a_head_that_is_missing_or_can_not_be_read_is_said_and_reading_goes_on(opened, refused):
    checkpoint = opened[False]
    without = {own: stored for own, stored in checkpoint.tensors.items() if own != HEAD}
    with refused("lm_head.weight is missing"):
        dataclasses.replace(checkpoint, tensors=without).require_words()
    spoiled = dataclasses.replace(checkpoint.tensors[HEAD], problem="the tensor lm_head.weight is stored as U3")
    spoiled = dataclasses.replace(checkpoint, tensors=checkpoint.tensors | {HEAD: spoiled})
    with refused("stored as U3. To describe"):
        spoiled.require_words()
    spoiled.require_language()


def test_a_vision_tower_alone_describes_nothing(models, tmp_path, refused):
    state = {name: value for name, value in tiny.inner_state(models[True]).items() if name.startswith("visual.")}
    checkpoint = open_checkpoint(str(tiny.save_single(state, tmp_path / "tower.safetensors")))
    with refused("the language model, which describes, is missing"):
        checkpoint.require_words()
