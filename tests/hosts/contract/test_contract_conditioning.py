"""Conditioning files in the web UI: the same picture without any Qwen3-VL, and what does not fit, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
from compare import hooks
from host_fixtures import WebUI
from host_runs import BARE, CAT, DOG, positions, rows, same
from safetensors.torch import load_file, save_file
from sampling import FRONT, UNWEIGHED, Studio, apart

from zvl_ext.conditioning import Conditioning
from zvl_ext.conditioning_file import About, load, save
from zvl_ext.errors import ZvlError
from zvl_ext.hosts import forge_files
from zvl_ext.webui import conditionings, infotext, run
from zvl_ext.webui.kept import KEEPER
from zvl_ext.webui.named_files import NAMED_FILES

pytest_plugins = ["host_fixtures", "sampling"]

TWO = {**FRONT, "reference_2": tiny.picture(64, 128, seed=9), "weight": 0.7, "weight_2": 0.4}
WAYS: dict[str, dict[str, Any]] = {
    "weighted": {**FRONT, "weight": 0.6, "start": 0.2, "curve": "ease out"},
    "unweighted": FRONT,
    "fewer tokens": {**FRONT, "image_dropout": 0.5, "merge": 2, "proportional": True},
    "blend": {"alpha": 0.5, "token_mode": "all", "length_match": "insert", **BARE},
    "mixed alone": {"end": 0.5, **BARE},
    "truncated": {"token_mode": "image", "length_match": "truncate", **BARE},
    "two": TWO,
    "two in turn": {**TWO, "combine": "in turn"},
    "two regions": {**TWO, "region": "left", "region_2": "right"},
}


class Files:
    """Pictures from files, in the studio without any Qwen3-VL."""

    def __init__(self, studio: Studio):
        self.studio, self.web = studio, studio.web

    def p(self, args: list, prompt: str | list[str] = CAT, cfg: float = 1.0, **fields: Any) -> Any:
        p = self.studio.p(prompt, cfg, **fields)
        run.attach(p, args)
        return self.web.condition(p)

    def sampled(self, p: Any) -> torch.Tensor:
        made = self.studio.sample(p)
        if attached := run.current(p):
            attached.after_sampling()
        return made

    def picture(self, name: str, prompt: str | list[str] = CAT, cfg: float = 1.0, **named: Any) -> torch.Tensor:
        fields = {field: named.pop(field) for field in ("batch_size", "seed") if field in named}
        return self.sampled(self.p([{"conditioning": name, **named}], prompt, cfg, **fields))

    def blind(self) -> None:
        """From now on there is no Qwen3-VL, and nothing is known of what one has read."""
        (self.web.weights / "tiny-vl").unlink()
        KEEPER.store.clear()
        KEEPER.residence.drop()
        self.web.events.clear()

    def saw_nothing(self) -> bool:
        return not {"vl", "vision", "load", "tower", "place"} & set(self.web.events.kinds())


@pytest.fixture
def files(studio: Studio) -> Files:
    return Files(studio)


def folder() -> Path:
    return Path(forge_files.conditioning_folder())


# --- the same picture


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_picture_is_made_again_without_qwen3_vl(files: Files, way: str) -> None:
    plain = files.studio.picture()
    wanted = files.studio.picture(**WAYS[way])
    assert apart(wanted, plain) > 1e-3
    assert conditionings.save_last("a") == "a"
    files.blind()
    assert torch.equal(files.picture("a"), wanted)
    assert files.saw_nothing()
    assert torch.equal(files.studio.picture(), plain), "afterwards it is as it was"
    assert hooks(files.studio.model) == 0


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_in_a_batch_and_with_guidance(files: Files, cfg: float) -> None:
    p = files.studio.condition(files.studio.p(CAT, cfg, batch_size=2), **TWO)
    wanted = files.sampled(p)
    conditionings.save_last("a")
    files.blind()
    assert torch.equal(files.picture("a", cfg=cfg, batch_size=2), wanted)


def test_in_hires(files: Files) -> None:
    wanted = files.web.run(files.web.p(enable_hr=True, hr_cfg=4.0), reference=files.studio.reference, **FRONT)
    files.sampled(wanted)
    conditionings.save_last("a")
    files.blind()
    got = files.p([{"conditioning": "a"}], enable_hr=True, hr_cfg=4.0)
    assert same(got.hr_c, wanted.hr_c)
    assert same(got.c, wanted.c)
    assert same(got.hr_uc, wanted.hr_uc)


def test_other_weights_are_as_if_it_had_been_made_with_them(files: Files) -> None:
    changed = {"weight_2": 1.3, "end": 0.6}
    wanted = files.studio.picture(**TWO | changed)
    files.studio.picture(**TWO)
    conditionings.save_last("a")
    files.blind()
    assert torch.equal(files.picture("a", **changed), wanted)
    # In the panel's form every control has its value.
    values = {"conditioning": "a", "weight": 0.7, "weight_2": 1.3, "end": 0.6}
    assert torch.equal(files.sampled(files.p(positions(**values))), wanted)
    # What was changed can be saved, too.
    conditionings.save_last("b")
    assert torch.equal(files.picture("b"), wanted)


def test_a_weight_of_0_is_the_plain_picture_of_the_prompt(files: Files) -> None:
    plain = files.studio.picture(DOG)
    files.studio.picture(**FRONT)
    conditionings.save_last("a")
    p = files.p([{"conditioning": "a", "weight": 0.0}], DOG)
    assert torch.equal(files.sampled(p), plain)
    assert infotext.CONDITIONING not in p.extra_generation_params
    assert ["no part in it with these weights" in line for line in p.comments] == [True]


def test_off_is_off(files: Files) -> None:
    files.studio.picture(**FRONT)
    conditionings.save_last("a")
    plain = files.studio.picture()
    p = files.p([{"conditioning": "a", "enabled": False}])
    assert torch.equal(files.sampled(p), plain)
    assert not p.comments


@pytest.mark.parametrize("prompt", ["a [cat:dog:0.5]", "a cat AND a dog :0.3", [DOG, CAT]])
def test_the_file_takes_the_place_of_a_prompt_of_any_form(files: Files, prompt: Any) -> None:
    wanted = files.studio.picture(**FRONT, weight=0.6)
    conditionings.save_last("a")
    made = files.picture("a", prompt)
    if isinstance(prompt, list):
        assert apart(made[:1], wanted) < 1e-4
        p = files.p([{"conditioning": "a"}], prompt)
    else:
        assert torch.equal(made, wanted)
        p = files.p([{"conditioning": "a"}], prompt)
    for _ in range(2):  # the second time it comes from the web UI's cache
        assert [line for line in p.comments if "prompt" in line] == [
            f"Z-Image VL: The prompt has no part in the picture: the conditioning has the rows of its own: {CAT!r}."
        ]
        p = files.p([{"conditioning": "a"}], prompt)
    assert not files.p([{"conditioning": "a"}]).comments


def test_rows_alone_from_another_tool(files: Files) -> None:
    p = files.studio.condition(files.studio.p(), **BARE)
    wanted = files.sampled(p)
    folder().mkdir()
    save_file({"hidden_states": rows(p.c)[0]}, folder() / "rows.safetensors")
    p = files.p([{"conditioning": "rows", "weight": 0.5}])
    assert torch.equal(files.sampled(p), wanted)
    assert any("the file has no reference in it" in line for line in p.comments)
    assert "ZVL weight" not in p.extra_generation_params


# --- the parameters


def test_the_parameters_name_the_file_and_what_it_weighs_and_nothing_else(files: Files) -> None:
    files.studio.picture(**TWO, region="left")
    conditionings.save_last("a cat, twice")
    p = files.p([{"conditioning": "a cat, twice", "weight_2": 0.9, "engine": "blend", "merge": 2}])
    digest = load(str(folder() / "a cat, twice.safetensors")).digest
    own = {key: value for key, value in p.extra_generation_params.items() if key in infotext.KEYS}
    assert own == {
        infotext.MARK: own[infotext.MARK],
        infotext.CONDITIONING: f"a cat, twice {digest[:12]}",
        "ZVL weight": "0.7",
        "ZVL weight 2": "0.9",
    }
    assert [line for line in p.comments if "changes nothing" in line] == [
        f"Z-Image VL: {label} changes nothing here: the file was made with its own." for label in ("Engine", "Merge")
    ]


def test_what_the_panel_asks_for_in_vain_is_said(files: Files) -> None:
    files.studio.picture(**FRONT)
    conditionings.save_last("a")
    p = files.p(positions(conditioning="a", image_dropout=0.5, weight_3=0.9))
    assert [line.split(" changes nothing here: ")[0] for line in p.comments] == [
        "Z-Image VL: Image dropout",
    ]


def test_another_image_model_is_said(files: Files) -> None:
    files.studio.picture(**FRONT)
    conditionings.save_last("a")
    saved = load(str(folder() / "a.safetensors"))
    save(saved.conditioning, str(folder() / "a.safetensors"), About(CAT, "another"))
    (line,) = files.p([{"conditioning": "a"}]).comments
    assert "made for another; with zimage the picture may differ" in line


# --- what is refused


def refusal(files: Files, **named: Any) -> str:
    """What a request is answered; then a picture is made as before."""
    p = files.studio.p()
    p.is_api = True
    run.attach(p, [{"enabled": True, **named}])
    with pytest.raises(Exception) as caught:  # noqa: PT011  the web UI's own class for the API, where it has one
        files.web.condition(p)
    assert type(caught.value).__name__ == "Z-Image VL"
    assert getattr(caught.value, "status_code", 422) == 422
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 420
    assert not set(infotext.KEYS) & set(p.extra_generation_params)
    return text


@pytest.mark.parametrize(
    "name",
    ["nowhere", "../secret", "/etc/passwd", "..", ".hidden", "a.safetensors", "sub/a", "a\0b", "~", "C:\\a", "x" * 200],
)
def test_a_name_is_looked_up_and_never_a_path(files: Files, name: str) -> None:
    files.studio.picture(**FRONT)
    conditionings.save_last("a")
    for outside in (folder().parent / "secret.safetensors", folder() / ".hidden.safetensors"):
        outside.write_bytes((folder() / "a.safetensors").read_bytes())
    (folder() / "sub").mkdir()
    assert "There is no conditioning file" in refusal(files, conditioning=name)


def test_a_file_beside_a_reference(files: Files) -> None:
    files.studio.picture(**FRONT)
    conditionings.save_last("a")
    said = refusal(files, conditioning="a", reference=files.studio.reference)
    assert "take the reference images out, or choose no conditioning file" in said


def damaged(kind: str, path: Path) -> None:
    """A file in place of a good one."""
    tensors = {name: each.clone() for name, each in load_file(path).items()}  # it is mapped
    wide, many = torch.zeros(5, 8), torch.zeros(9000, 64)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif kind == "noise":
        path.write_bytes(b"\xff" * 500)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pickle":
        torch.save(tensors, path)
    elif kind == "header":
        path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        wrong = {
            "wide": {"hidden_states": wide},
            "many": {"hidden_states": many},
            "whole numbers": {"hidden_states": wide.long()},
            "nan": {"hidden_states": many[:5] * float("nan")},
            "another": {"model.weight": wide},
            "parts": tensors | {"hidden_states": tensors["hidden_states"] + 1},
        }[kind]
        with_metadata = {"zvl_conditioning": "1"} if kind == "parts" else None
        save_file(wrong, path, with_metadata)


@pytest.mark.parametrize(
    ("kind", "says"),
    {
        "cut": "can't be read",
        "noise": "can't be read",
        "empty": "can't be read",
        "pickle": "can't be read",
        "header": "header is too long",
        "folder": "no conditioning file",
        "wide": "8 wide, the image model takes 64",
        "many": "9000 tokens",
        "whole numbers": "int64",
        "nan": "not finite",
        "another": "no tensor",
        "parts": "no conditioning that can be used",
    }.items(),
)
def test_a_file_that_can_not_be_used(files: Files, kind: str, says: str) -> None:
    files.studio.picture(**FRONT)
    conditionings.save_last("a")
    damaged(kind, folder() / "a.safetensors")
    said = refusal(files, conditioning="a")
    assert says in said
    assert "'a'" in said or "a is" in said or "a has" in said
    assert str(folder() / "a") not in said


def test_blocks_that_the_image_model_lacks(files: Files) -> None:
    files.studio.picture(**FRONT)
    conditionings.save_last("a")
    assert "There is no block 200" in refusal(files, conditioning="a", blocks="0, 200-210")


def test_values_that_the_web_uis_numbers_do_not_hold(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    folder().mkdir()
    save(Conditioning(torch.full((5, 64), 1e30)), str(folder() / "a.safetensors"), About(CAT))
    encode = type(files.web.engine).get_learned_conditioning
    monkeypatch.setattr(
        type(files.web.engine),
        "get_learned_conditioning",
        lambda own, prompts: [r.half() for r in encode(own, prompts)],
    )
    assert "float16 does not hold" in refusal(files, conditioning="a")


# --- saving


NOTHING = "no reference had a part in the last picture"


@pytest.mark.parametrize("nothing", [{"alpha": 0.0}, {"weight": 0.0}, {"start": 0.9, "end": 0.9}, {"enabled": False}])
def test_a_picture_without_a_reference_leaves_nothing_to_save(files: Files, nothing: dict, refused: Any) -> None:
    files.studio.picture(**FRONT)
    settings = {**FRONT, **UNWEIGHED, "reference": files.studio.reference, "enabled": True, **nothing}
    files.sampled(files.p([settings]))
    with refused(NOTHING):
        conditionings.save_last("a")
    assert not folder().exists()


def test_nothing_was_made_yet(files: Files, refused: Any) -> None:
    with refused(NOTHING):
        conditionings.save_last("a")


@pytest.mark.parametrize(
    ("prompt", "more", "says"),
    [
        ("a [cat:dog:0.5]", {}, "several parts"),
        ("a cat AND a dog", {}, "several parts"),
        (CAT, {"negative": True}, "negative reference"),
    ],
)
def test_what_one_file_can_not_hold(files: Files, prompt: str, more: dict, says: str, refused: Any) -> None:
    files.sampled(files.studio.condition(files.studio.p(prompt, 4.0), **FRONT, **more))
    with refused(says):
        conditionings.save_last("a")


def test_of_a_batch_the_first_picture_is_saved(files: Files) -> None:
    p = files.studio.condition(files.studio.p([DOG, CAT], seed=7), **FRONT, image_dropout=0.5)
    files.sampled(p)
    conditionings.save_last("a")
    assert torch.equal(load(str(folder() / "a.safetensors")).conditioning.rows, rows(p.c)[0])
    assert load(str(folder() / "a.safetensors")).about.prompt == DOG


def test_from_the_web_uis_cache_it_is_the_same(files: Files) -> None:
    for name in ("a", "b"):
        files.studio.picture(**TWO)
        conditionings.save_last(name)
        files.studio.picture(DOG)
    one, other = (load(str(folder() / f"{name}.safetensors")) for name in ("a", "b"))
    assert one.digest == other.digest
    assert one.about.reader == "splice, tiny-vl"
    assert one.about.image_model == "zimage"
    assert "ZVL weight: 0.7" in one.about.infotext


def test_what_a_later_batch_has_left_in_the_web_uis_cache_can_be_saved(files: Files) -> None:
    args = [{**FRONT, "reference": files.studio.reference, "image_dropout": 0.5}]
    p = files.p(args, seed=1, n_iter=2)
    files.sampled(p)
    p.seed = 2
    files.sampled(files.web.condition(p))
    again = files.p(args, seed=2)
    files.sampled(again)
    assert again.c is p.c, "it was found there"
    conditionings.save_last("a")
    assert torch.equal(load(str(folder() / "a.safetensors")).conditioning.rows, rows(p.c)[0])


def test_what_was_forgotten_is_made_anew(files: Files) -> None:
    wanted = files.studio.picture(**FRONT)
    KEEPER.forget()
    assert torch.equal(files.studio.picture(**FRONT), wanted)
    assert conditionings.save_last("a") == "a"


@pytest.mark.parametrize(
    ("wanted", "name"),
    {
        "red cat": "red cat",
        "  red  cat.safetensors ": "red cat",
        "../../etc/passwd": "_.._etc_passwd",
        "/abs": "_abs",
        ".hidden": "hidden",
        'a<b>:"c|d?*': "a_b_c_d_",
        "NUL": "_NUL",
        "com1.txt": "_com1.txt",
        "tab\there\n": "tab here",
        "\u202eabc\x00": "abc",
        "ночь 夜": "ночь 夜",
        "half \ud83d": "half",
        "夜" * 100: "夜" * 33,
    }.items(),
)
def test_a_name_becomes_a_files(files: Files, wanted: str, name: str) -> None:
    files.studio.picture(**FRONT)
    assert conditionings.save_last(wanted) == name
    assert [path.name for path in folder().iterdir()] == [f"{name}.safetensors"]
    assert list(forge_files.conditioning_paths()) == [name]
    assert NAMED_FILES["conditioning"].opened(name).name == name


@pytest.mark.parametrize("wanted", ["", "  ", "..", "/", "\x00", ".safetensors"])
def test_a_name_of_nothing_is_none(files: Files, wanted: str, refused: Any) -> None:
    files.studio.picture(**FRONT)
    with refused("Type a name"):
        conditionings.save_last(wanted)
    assert not list(folder().glob("*"))


def test_no_file_is_written_over(files: Files, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files.studio.picture(**FRONT)
    conditionings.save_last("a")
    before = (folder() / "a.safetensors").read_bytes()
    for name in ("a", "A", "a.safetensors"):
        with refused("already"):
            conditionings.save_last(name)
    monkeypatch.setattr(forge_files, "conditioning_paths", dict)  # another process has made it in between
    with refused("is there already"):
        conditionings.save_last("a")
    assert (folder() / "a.safetensors").read_bytes() == before
    assert len(list(folder().iterdir())) == 1


def test_a_folder_that_can_not_be_written(files: Files, refused: Any) -> None:
    files.studio.picture(**FRONT)
    folder().write_text("no folder")
    with refused("can't be"):
        conditionings.save_last("a")


def test_too_many_files(files: Files, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files.studio.picture(**FRONT)
    monkeypatch.setattr(conditionings, "_MOST", 1)
    conditionings.save_last("a")
    with refused("There are 1 conditioning files"):
        conditionings.save_last("b")


# --- saving with a request


def test_a_request_names_the_file(files: Files) -> None:
    settings = {**FRONT, "reference": files.studio.reference, "save_conditioning": "by request"}
    p = files.p([settings], batch_size=2)
    assert not folder().exists(), "nothing is saved before there is a picture"
    wanted = files.sampled(p)
    assert list(p.comments) == ["Z-Image VL: the conditioning was saved as by request."]
    assert torch.equal(files.picture("by request", batch_size=2), wanted)
    assert "already" in refusal(files, **settings)


def test_a_request_that_has_nothing_to_save_says_so(files: Files) -> None:
    p = files.p([{**FRONT, "alpha": 0.0, "reference": files.studio.reference, "save_conditioning": "x"}])
    assert any(f"no conditioning was saved. There is nothing to save: {NOTHING}" in line for line in p.comments)
    assert not folder().exists()
    assert "save_conditioning must be text" in refusal(
        files, reference=files.studio.reference, save_conditioning=["x"], **FRONT
    )


def test_a_pass_within_the_picture_saves_nothing_of_its_own(files: Files) -> None:
    """ADetailer hands its passes the picture's own arguments, the name of the file among them."""
    base = {**FRONT, "reference": files.studio.reference}
    settings = {**base, "save_conditioning": "x"}
    outer = files.p([settings])
    files.sampled(outer)

    def process_images_inner(p: Any, work: Callable[[], Any]) -> Any:
        return work()

    inner = process_images_inner(outer, lambda: files.p([settings], "a face"))
    assert same(inner.c, files.p([base], "a face").c)
    assert list(forge_files.conditioning_paths()) == ["x"]


def test_its_weights_are_no_qwen3_vl(files: Files, web: WebUI) -> None:
    files.studio.picture(**FRONT)
    before = forge_files.models()
    conditionings.save_last("a")
    assert forge_files.models() == before
    with pytest.raises(ZvlError):
        forge_files.checkpoint("conditionings/a.safetensors")
