"""Who judges the pictures besides the measures: encoders of the real classes, and a judge of the miniature's world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zvl_ext.errors import ZvlError
from zvl_ext.lab.miniature import judge, world
from zvl_ext.lab.sweep.judges import encoders
from zvl_ext.measures import ADHERENCE, SIMILARITY, Shown

rng = np.random.default_rng(0)
PICTURE, REFERENCE = (Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(2))
WORDS = ["a", "cat", "large", "red", "<pad>", "<unk>", "<end>"]
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": len(WORDS), "max_position_embeddings": 8}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 16, "patch_size": 8}  # fmt: skip


def saved(kind: str, folder: Path) -> Any:
    """A tiny random model of the real class with its processor, as a folder; and the two."""
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(1)
    size = {"height": 16, "width": 16}
    if kind == "clip":
        ends = {"pad_token_id": 4, "eos_token_id": 6, "bos_token_id": 5}
        config = t.CLIPConfig(text_config=TEXT | ends, vision_config=VISION, projection_dim=24)
        model, processor = t.CLIPModel(config), t.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size)
    elif kind == "siglip":
        config = t.SiglipConfig(text_config=TEXT | {"pad_token_id": 4, "projection_size": 32}, vision_config=VISION)
        model, processor = t.SiglipModel(config), t.SiglipImageProcessor(size=size)
    else:
        model = t.Dinov2Model(t.Dinov2Config(**{k: v for k, v in VISION.items() if k != "intermediate_size"}))
        processor = t.BitImageProcessor(size={"shortest_edge": 16}, crop_size=size, do_convert_rgb=True)
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=8
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), processor, tokenizer


def cosine(a: Any, b: Any) -> float:
    a, b = (getattr(each, "pooler_output", each)[0] for each in (a, b))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
@torch.inference_mode()
def test_an_encoders_measures_are_the_cosines_of_its_own_embeddings(kind: str, tmp_path: Path) -> None:
    model, processor, tokenizer = saved(kind, tmp_path / "tiny")
    found = {metric.role: metric for metric in encoders.metrics(str(tmp_path / "tiny"))}
    shown = Shown(PICTURE, REFERENCE, "a large cat")
    read = model if kind == "dinov2" else model.get_image_features
    a, b = (read(**processor(images=[each], return_tensors="pt")) for each in (PICTURE, REFERENCE))
    assert found[SIMILARITY].function(shown) == pytest.approx(cosine(a, b), abs=1e-5)
    assert found[SIMILARITY].function(Shown(PICTURE)) is None
    assert found[SIMILARITY].function(Shown(PICTURE, PICTURE)) == pytest.approx(1, abs=1e-5)
    assert (ADHERENCE in found) == (kind != "dinov2")
    if kind != "dinov2":
        text = tokenizer(["a large cat"], padding="max_length", return_tensors="pt")
        text = {name: value for name, value in text.items() if name != "token_type_ids"}
        expected = cosine(a, model.get_text_features(**text))
        assert found[ADHERENCE].function(shown) == pytest.approx(expected, abs=1e-5)
        assert found[ADHERENCE].function(Shown(PICTURE, REFERENCE, " ")) is None
        assert found[ADHERENCE].name == "tiny text"


def test_other_weights_are_another_identity(tmp_path: Path) -> None:
    saved("dinov2", tmp_path / "tiny")
    (before,) = encoders.metrics(str(tmp_path / "tiny"))
    weights = tmp_path / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    (after,) = encoders.metrics(str(tmp_path / "tiny"))
    assert before.identity != after.identity != ""


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "is no folder of a Hugging Face model"),
        ("{", "is no folder of a Hugging Face model"),
        ("[]", "clip, siglip"),
        ('{"model_type": "bert"}', "holds bert; clip, siglip"),
        ('{"model_type": ["clip"]}', "clip, siglip"),
    ],
)
def test_a_folder_of_something_else_is_one_line(tmp_path: Path, config: str | None, says: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ZvlError, match=r"^--encoder [^\n]*$") as caught:
        encoders.metrics(str(tmp_path))
    assert says in str(caught.value)


def test_weights_that_are_not_there_are_one_line_when_they_are_needed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    metric, _ = encoders.metrics(str(tmp_path))
    with pytest.raises(ZvlError, match=r"can't be loaded \([^\n]*\)\.$"):
        metric.function(Shown(PICTURE, REFERENCE))


# --- the miniature's


def test_the_judge_by_rules_sees_what_was_drawn() -> None:
    draw = np.random.default_rng(11)
    right = {name: [] for name in judge.RULED}
    for number in range(60):
        scene = world.random_scene(draw, None)
        found = judge.seen(Image.fromarray(world.draw(scene, 8 * 10**7 + number)))
        for name in judge.RULED:
            right[name].append(found[name] == getattr(scene, name))
    assert {name: np.mean(each) > 0.93 for name, each in right.items()} == dict.fromkeys(judge.RULED, True)


def test_the_judge_by_rules_has_nothing_that_was_trained() -> None:
    source = Path(judge.__file__).read_text(encoding="utf-8")
    assert "torch" not in source
    assert "safetensors" not in source


@pytest.mark.parametrize("size", [(8, 8), (300, 120)])
def test_any_picture_is_judged(size: tuple[int, int]) -> None:
    assert set(judge.seen(Image.new("RGB", size, (90, 90, 90)))) == set(judge.RULED)


def test_both_judges_tell_prompt_from_reference() -> None:
    from zvl_ext.lab.miniature import family
    from zvl_ext.lab.sweep.judges import miniature

    wanted, other = world.Scene("star", "green", "navy", "flat"), world.Scene("circle", "red", "white", "dotted")
    as_asked, as_shown = (Image.fromarray(world.draw(scene, 77)) for scene in (wanted, other))
    reference = Image.fromarray(world.draw(other, 78))
    found = {metric.name: metric.function for metric in miniature.metrics(family.WEIGHTS)}
    prompt = "a green star, flat, against navy"
    for side, like, unlike in (("adherence", as_asked, as_shown), ("similarity", as_shown, as_asked)):
        for name in (side, f"ruled_{side}"):
            good, bad = (found[name](Shown(each, reference, prompt)) for each in (like, unlike))
            assert good > 0.9 > 0.3 > bad, name
    assert found["similarity"](Shown(as_asked, None, prompt)) is None
    assert found["adherence"](Shown(as_asked, reference, "")) is None
