"""A LoRA of the image model: diffusers' own class at the miniature's size, with random weights, and peft's layers."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from learning import Alone

pytest.importorskip("diffusers")
pytest.importorskip("peft", reason="a LoRA needs peft, an optional package")

from zvl_ext.conditioning import Part, joined
from zvl_ext.fit.adapters import LAYERS, Adapters, Form
from zvl_ext.fit.judge import Judge
from zvl_ext.fit.loop import Schedule, run
from zvl_ext.fit.prepare import Prepared
from zvl_ext.fit.recipes import Example
from zvl_ext.fit.state import Folder
from zvl_ext.hosts.standalone_learning import learning
from zvl_ext.hosts.standalone_lora import add_loras
from zvl_ext.lab.miniature import family
from zvl_ext.loras import Named, read_lora, write_lora
from zvl_ext.weighting import Weighting

FORM = Form(rank=2, alpha=3.0)
SCHEDULE = Schedule(steps=4, batch=2, at_once=2, rate=0.01, every=2, patience=9)
BLOCKS = 6 + 1 + 1


@pytest.fixture(scope="module")
def whole() -> torch.nn.Module:
    torch.manual_seed(0)
    return tiny.randomized(family.transformer()).requires_grad_(False)


@pytest.fixture
def model(whole) -> torch.nn.Module:
    return copy.deepcopy(whole)


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, family.HIDDEN, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    made = torch.Generator().manual_seed(1)

    def part(seed: int) -> Part:
        return Part(Weighting(0.5), own=rows(5, seed + 1), counts=torch.ones(4), block=rows(4, seed + 2))

    wanted = [joined(rows(5, seed), (part(seed),), 0, torch.float32) for seed in (10, 20, 30, 40)]
    latents = {number: torch.randn(16, 4, 4, generator=made) for number in range(4)}
    captions = {number: rows(6, 50 + number) for number in range(4)}
    return Prepared([Example("same", number, "", number, 0) for number in range(4)], latents, captions, wanted)


def adapters(model, prepared, form=FORM, schedule=SCHEDULE) -> Adapters:
    return Adapters(Judge(model, 4, 0, 3.0, Alone()), prepared, prepared.first(2), schedule, form)


@torch.no_grad()
def made(model, prepared) -> torch.Tensor:
    """What an image model makes of two conditionings with their references."""
    judge, wanted = Judge(model, 2, 0, 3.0, Alone()), prepared.conditionings[:2]
    with learning(model, wanted, [0.3, 0.3], **judge.tables()):
        noise, times = [prepared.latents[0][:, None]] * 2, torch.full((2,), 0.3)
        return torch.stack(model(noise, times, [each.rows for each in wanted], return_dict=False)[0])


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    """Up to rounding; what a LoRA changes is a hundred times as much."""
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def pipeline(model):
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, model)


@pytest.fixture(scope="module")
def fitted(whole, prepared, tmp_path_factory):
    """A LoRA that was learned, the image model with it, and what lies in its state's folder."""
    model, folder = copy.deepcopy(whole), tmp_path_factory.mktemp("whole")
    learner = adapters(model, prepared)
    _, best = run(learner, SCHEDULE, Folder(str(folder), "k"), Alone(), lambda progress: None)
    return learner.use(best), model, (folder / "state.safetensors").read_bytes()


@pytest.fixture(scope="module")
def file(fitted, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("out") / "own.safetensors")
    pairs = {layer: (down, up + 0.02) for layer, (down, up) in fitted[0].items()}  # as if it had learned for longer
    write_lora(path, pairs, FORM.alpha, {})
    return path


def test_a_new_one_changes_nothing(whole, model, prepared):
    expected = made(whole, prepared)
    adapters(model, prepared)
    assert torch.equal(made(model, prepared), expected)


@pytest.mark.parametrize("layers", LAYERS)
def test_gradients_are_its_own_alone(model, prepared, layers):
    learner = adapters(model, prepared, Form(2, 2.0, layers))
    learner.learn(0, range(2))
    theirs = {id(each) for each in learner.parameters.values()}
    for name, each in model.named_parameters():
        assert each.requires_grad == (id(each) in theirs), name
        assert (each.grad is not None) == (id(each) in theirs), name
    per_block = {"attention": 4, "blocks": 7}[layers]
    assert len(theirs) == 2 * per_block * BLOCKS, "of all blocks, two each"
    for name, each in learner.parameters.items():
        assert bool(each.grad.any()) == name.endswith(".up"), "behind zeros nothing moves in the first step"


def test_it_learns(fitted, prepared, whole):
    pairs, model, _ = fitted
    assert all(up.any() for _, up in pairs.values())
    assert not torch.equal(made(model, prepared), made(whole, prepared))


def test_the_parts_of_a_batch_are_the_whole(model, whole, prepared):
    other = copy.deepcopy(whole)
    together, apart = adapters(model, prepared), adapters(other, prepared)
    loss = together.learn(1, range(2))
    assert apart.learn(1, range(1)) + apart.learn(1, range(1, 2)) == pytest.approx(loss, rel=1e-5)
    for name, each in together.parameters.items():
        torch.testing.assert_close(apart.parameters[name].grad, each.grad, atol=0.01, rtol=0.01)  # they are in the tens


def test_activations_that_are_computed_again_give_the_same_gradients(model, whole, prepared):
    kept, again = adapters(copy.deepcopy(whole), prepared), adapters(model, prepared)
    model.enable_gradient_checkpointing()
    assert again.learn(1, range(2)) == kept.learn(1, range(2))
    for name, each in kept.parameters.items():
        torch.testing.assert_close(again.parameters[name].grad, each.grad)


def test_killed_and_resumed_it_is_the_same_to_the_last_bit(whole, prepared, fitted, tmp_path):
    folder = Folder(str(tmp_path), "k")

    def fit(at: int | None) -> None:
        learner = adapters(copy.deepcopy(whole), prepared)
        learn = learner.learn

        def stopped(step: int, members: range) -> float:
            if step == at:
                raise KeyboardInterrupt
            return learn(step, members)

        learner.learn = stopped
        run(learner, SCHEDULE, folder, Alone(), lambda progress: None)

    with pytest.raises(KeyboardInterrupt):
        fit(3)
    fit(None)
    assert (tmp_path / "state.safetensors").read_bytes() == fitted[2]


def test_a_file_makes_the_picture_of_the_model_that_learned_it(whole, model, prepared, tmp_path):
    learner = adapters(whole_copy := copy.deepcopy(whole), prepared)
    best = {name: each.detach() + 0.02 for name, each in learner.parameters.items()}
    path = str(tmp_path / "own.safetensors")
    write_lora(path, learner.use(best), FORM.alpha, {})
    add_loras(pipeline(model), [Named(path)])
    assert_same(made(model, prepared), made(whole_copy, prepared))
    assert (made(model, prepared) - made(whole, prepared)).abs().mean() > 0.1


@pytest.mark.parametrize("strengths", [(0.5,), (0.7, -0.4)])
def test_strengths_are_what_is_added_to_the_weights(whole, model, prepared, file, strengths):
    add_loras(pipeline(model), [Named(file, each) for each in strengths])
    by_hand, tensors = copy.deepcopy(whole), read_lora(file)
    for name, down in tensors.items():
        if name.endswith("A.weight"):
            layer = by_hand.get_submodule(name.removeprefix("diffusion_model.").removesuffix(".lora_A.weight"))
            layer.weight += sum(strengths) * 1.5 * tensors[name.replace("lora_A", "lora_B")] @ down
    assert_same(made(model, prepared), made(by_hand, prepared))
    assert (made(model, prepared) - made(whole, prepared)).abs().mean() > 0.1


def test_strength_0_is_the_image_model_untouched(model):
    add_loras(pipeline(model), [Named("nothing", 0.0)])
    assert not any("lora" in name for name, _ in model.named_modules())


def changed(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    name = next(each for each in tensors if "lora_A" in each)
    return {
        "other blocks": {name.replace("layers.0.", "layers.77."): each for name, each in tensors.items()},
        "another width": {name: each.repeat(2, 2) if each.ndim else each for name, each in tensors.items()},
        "half of it": {name: each for name, each in tensors.items() if "lora_A" in name},
        "one without its other": {other: each for other, each in tensors.items() if other != name},
        "no linear layer": {name.replace("attention.to_q", "attention"): each for name, each in tensors.items()},
        "another kind": {name.replace("lora_A", "lora_x"): each for name, each in tensors.items()},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("other blocks", "is not for this image model"),
        ("another width", "of another size"),
        ("half of it", "of a kind|is not for"),
        ("one without its other", "of a kind|is not for"),
        ("no linear layer", "is not for this image model"),
        ("another kind", "of a kind|is not for"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_added(model, file, tmp_path, refused, kind, words):
    from safetensors.torch import save_file

    path = str(tmp_path / "other.safetensors")
    tensors = {name: each.contiguous() for name, each in changed(read_lora(file), kind).items()}
    save_file(tensors, path)
    with refused(words):
        add_loras(pipeline(model), [Named(file), Named(path)])
    assert not any("lora" in name for name, _ in model.named_modules())


def test_its_memory_is_counted(whole):
    learned = Form(4, 4.0, "attention").learned(whole, BLOCKS)
    assert learned.numbers == BLOCKS * 4 * 4 * (2 * 120)
    assert learned.kept == 4 * 4 * (120 + 4)
    learned = Form(4, 4.0).learned(whole, BLOCKS)
    assert learned.numbers == BLOCKS * 4 * (4 * (2 * 120) + 3 * (120 + 320)), "two of 120 to 320, one of 320 to 120"
    assert learned.kept == 4 * (6 * (120 + 4) + (320 + 4))
