"""The accordion, and the script as the web UI's runner handles it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import hosts
import pytest

gr = pytest.importorskip("gradio")

import torch  # noqa: E402  the panel needs gradio, which is not everywhere
from backend import memory_management as mm  # noqa: E402
from host_fixtures import WebUI, same  # noqa: E402
from modules import infotext_utils, script_callbacks, scripts  # noqa: E402
from PIL import Image  # noqa: E402

from zvl_ext.budget import weight_bytes  # noqa: E402
from zvl_ext.hosts import forge_files, forge_memory  # noqa: E402
from zvl_ext.options import BY_NAME, CUSTOM, OPTIONS, Settings  # noqa: E402
from zvl_ext.presets import PRESETS  # noqa: E402
from zvl_ext.webui import infotext, panel  # noqa: E402
from zvl_ext.webui.host import WebUI as PanelHost  # noqa: E402
from zvl_ext.webui.kept import KEEPER  # noqa: E402

pytest_plugins = ["host_fixtures"]

TITLE = "Z-Image VL"
ORDER = [option.name for option in OPTIONS]


def elem_id(name: str) -> str:
    return f"script_txt2img_z-image_vl_{name}"


class Built:
    """A panel in a page of its own."""

    def __init__(self) -> None:
        with gr.Blocks() as self.page:
            components, self.fields = panel.build(TITLE, elem_id, PanelHost())
        self.controls = dict(zip([o.name for o in OPTIONS], components))
        self.components = components

    @property
    def labels(self) -> list[str]:
        return [c.label for c in self.components]

    def html(self) -> str:
        return " ".join(b.value for b in self.page.blocks.values() if isinstance(b, gr.HTML) and b.value)

    def button(self, name: str) -> Any:
        return next(b for b in self.page.blocks.values() if b.elem_id == elem_id(name))

    @property
    def memory(self) -> Any:
        """What shows the line about memory."""
        (found,) = (b for b in self.page.blocks.values() if "zvl-memory" in (b.elem_classes or []))
        return found

    def events(self, component: Any, event: str) -> list[Any]:
        """What happens on an event of a component: objects with fn, inputs and outputs."""
        found = []
        for block_function in self.page.fns.values():
            if (component._id, event) in block_function.targets and block_function.fn is not None:
                found.append(block_function)
        return found

    def pasted(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The values that the web UI's paste button puts into the controls; untouched ones are missing."""
        values: dict[str, Any] = {}
        for component, target in self.fields:
            value = target(parameters) if callable(target) else parameters.get(target)
            if value is None:
                continue
            name = next(name for name, control in self.controls.items() if control is component)
            values[name] = value["value"] if isinstance(value, dict) else type(component.value)(value)
        return values


@pytest.fixture
def built(web: WebUI) -> Built:
    return Built()


# --- what it shows


def test_the_components_are_the_options_in_order(built: Built) -> None:
    assert len(built.components) == len(OPTIONS)
    for option, component in zip(OPTIONS, built.components):
        assert component.label == (TITLE if option.name == "enabled" else option.label)
        assert elem_id(option.name) in (component.elem_id or "")


def test_the_defaults_are_the_options_defaults(built: Built) -> None:
    for option, component in zip(OPTIONS, built.components):
        if option.kind == "model":
            assert component.value == "tiny-vl", "the first model found"
        else:
            assert component.value == option.default, option.name
            assert type(component.value) is type(option.default)


def test_a_fresh_panels_values_are_the_default_settings(built: Built) -> None:
    settings = Settings.from_positions([component.value for component in built.components])
    assert settings == Settings(model="tiny-vl")


def test_kinds_ranges_and_choices(built: Built) -> None:
    for option, component in zip(OPTIONS, built.components):
        if option.kind in ("number", "integer"):
            assert (component.minimum, component.maximum, component.step) == (
                option.minimum,
                option.maximum,
                option.step,
            )
        elif option.kind == "choice":
            assert [value for _, value in component.choices] == list(option.choices)
        elif option.kind == "image":
            assert isinstance(component, gr.Image)
            assert component.type == "pil"
            assert "webcam" not in component.sources


def test_labels_are_unique(built: Built) -> None:
    """The web UI keeps a user's defaults by label."""
    assert len(set(built.labels)) == len(built.labels)


def test_element_ids_are_unique(built: Built) -> None:
    ids = [block.elem_id for block in built.page.blocks.values() if block.elem_id]
    assert len(set(ids)) == len(ids)


def test_every_option_says_what_it_is_for(built: Built) -> None:
    for option, component in zip(OPTIONS, built.components):
        if option.kind == "image":
            assert BY_NAME["reference"].help in built.html().replace("&#x27;", "'")
        elif option.name != "enabled":
            assert component.info == option.help


def test_the_page_is_plain_data(built: Built) -> None:
    config = built.page.get_config_file()
    json.dumps(config)
    shown = {component["props"].get("label") for component in config["components"]}
    assert set(built.labels) <= shown


def test_several_panels_stand_side_by_side(web: WebUI) -> None:
    """Two tabs, and the web UI builds each of them more than once to learn the defaults."""
    first, second = Built(), Built()
    assert first.labels == second.labels


# --- no weights


def test_no_weights_say_what_to_get_and_where_to_put_it(web: WebUI) -> None:
    (web.weights / "tiny-vl").unlink()
    html = Built().html()
    for part in (
        "Qwen/Qwen3-VL-4B-Instruct",
        "8.9 GB",
        "qwen3vl_4b_bf16.safetensors",
        "qwen3vl_4b_fp8_scaled.safetensors",
        "5.2 GB",
        str(web.weights),
    ):
        assert part in html
    assert Built().controls["model"].value is None


def test_with_weights_there_is_no_such_note(built: Built) -> None:
    assert "No Qwen3-VL weights" not in built.html()


def test_the_refresh_button_finds_what_has_come(web: WebUI, vl_folder: Any) -> None:
    (web.weights / "tiny-vl").unlink()
    built = Built()
    (web.weights / "new").symlink_to(vl_folder)
    (event,) = built.events(built.button("refresh"), "click")
    dropdown, note = event.fn(None)
    assert [choice if isinstance(choice, str) else choice[1] for choice in dropdown["choices"]] == ["new"]
    assert dropdown["value"] == "new"
    assert note == ""
    (web.weights / "other").symlink_to(vl_folder)
    assert event.fn("other")[0]["value"] == "other", "a choice that is still there is kept"
    assert event.fn("gone")[0]["value"] == "new"


def test_a_folders_name_is_text_and_not_html(web: WebUI, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import paths

    monkeypatch.setattr(paths, "models_path", str(tmp_path / "<b>bold"))
    html = Built().html()
    assert "<b>bold" not in html
    assert "&lt;b&gt;bold" in html


# --- memory

GIB = 2**30
MORE = {"reference_tokens": 1024}  # 0.75 GiB to work in; the tiny weights are nothing beside it


@pytest.fixture
def machine(web: WebUI, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`machine(card, free)`: the computer has so many GiB; a card of 0 is none."""

    def make(card: float, free: float) -> None:
        # "meta" stands for a graphics card
        monkeypatch.setattr(mm, "text_encoder_device", lambda: torch.device("meta" if card else "cpu"))
        monkeypatch.setattr(
            mm, "get_total_memory", lambda device=None, *a: int((card if device.type == "meta" else 64) * GIB)
        )
        monkeypatch.setattr(
            mm, "get_free_memory", lambda device=None, *a: int((free if device.type == "cpu" else card / 2) * GIB)
        )

    make(8, 16)
    return make


def memory_line(**values: Any) -> str:
    """What a panel with these values says about memory."""
    built = Built()
    (event,) = [e for e in built.events(built.controls["device"], "change") if built.memory in e.outputs]
    names = [next(n for n, control in built.controls.items() if control is component) for component in event.inputs]
    return event.fn(*[values.get(name, BY_NAME[name].default) for name in names])


def test_the_memory_is_said_before_the_run(machine: Any) -> None:
    line = Built().memory.value
    assert line == memory_line()
    assert "Qwen3-VL takes about 0.4 GiB while it reads the reference; the graphics card has 8.0 GiB." in line
    assert "Qwen3-VL takes about 0.8 GiB" in memory_line(**MORE)
    assert "The vision tower takes about 0.8 GiB" in memory_line(engine="splice", **MORE)


@pytest.mark.parametrize("name", ["model", "engine", "hidden_layer", "reference_tokens", "storage", "device"])
def test_it_is_said_again_when_a_control_changes_that_decides_it(built: Built, name: str) -> None:
    shown = built.memory
    assert len([e for e in built.events(built.controls[name], "change") if e.outputs == [shown]]) == 1


def test_it_is_said_again_after_refreshing(built: Built) -> None:
    (click,) = built.events(built.button("refresh"), "click")
    (then,) = [e for e in built.page.fns.values() if e.trigger_after == click._id]
    assert then.outputs == [built.memory]


@pytest.mark.parametrize(
    ("card", "free", "values", "says"),
    [
        (0.5, 16, MORE, "takes about 0.8 GiB and does not fit the graphics card (0.5 GiB): it runs on the CPU, which "
        "is slower. "
                        "Choose a reference of 256 tokens.</p>"),
        (0.5, 0.6, MORE, "takes about 0.8 GiB and fits neither the graphics card (0.5 GiB) nor the main memory that is "
        "free (0.6 GiB). "
                         "Choose a reference of 256 tokens. Close other programs.</p>"),
        (0.2, 16, MORE, "it runs on the CPU, which is slower.</p>"),  # and nothing to choose would change that
        (8, 16, {"device": "cpu"}, "takes about 0.4 GiB while it reads the reference; 16.0 GiB of main memory are "
        "free.</p>"),
        (0, 16, {}, "takes about 0.4 GiB while it reads the reference; 16.0 GiB of main memory are free.</p>"),
        (0, 0.5, MORE, "takes about 0.8 GiB and does not fit the main memory that is free (0.5 GiB). "
                       "Choose a reference of 256 tokens. Close other programs.</p>"),
        (8, 0.1, {"device": "cpu"}, "does not fit the main memory that is free (0.1 GiB). Close other programs.</p>"),
    ],
)  # fmt: skip
def test_where_it_is_read_and_whether_it_fits(machine: Any, card: float, free: float, values: dict, says: str) -> None:
    machine(card, free)
    assert says in memory_line(**values)


def test_only_what_would_make_it_fit_is_recommended(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_of = {"blend auto": 3 * GIB, "blend fp8": 2 * GIB, "splice auto": GIB}
    monkeypatch.setattr(
        forge_memory, "weight_bytes", lambda opened, settings, size: bytes_of[f"{settings.engine} {settings.storage}"]
    )
    machine(2.9, 16)
    assert "Choose engine splice or weights in memory fp8.</p>" in memory_line()
    machine(1.9, 16)
    assert "Choose engine splice.</p>" in memory_line()
    machine(1.9, 0.1)
    assert "Choose engine splice. Close other programs.</p>" in memory_line()


def test_a_web_ui_that_uses_no_video_memory_reads_in_main_memory(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mm, "vram_state", mm.VRAMState.NO_VRAM)
    assert "16.0 GiB of main memory are free" in memory_line()


@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("bfloat16", 2), ("float16", 2), ("float8_e4m3fn", 2)])
def test_the_weights_are_counted_in_the_dtype_that_is_computed_in(
    machine: Any, monkeypatch: pytest.MonkeyPatch, dtype: str, itemsize: int
) -> None:
    monkeypatch.setattr(mm, "text_encoder_dtype", lambda *a: getattr(torch, dtype))
    settings = Settings(reference_tokens=4)
    expected = weight_bytes(forge_files.checkpoint(""), settings, itemsize) + GIB // 4 + 2 * 2**20
    assert PanelHost().memory(settings).needed == expected


def test_what_is_held_already_counts_as_free(machine: Any, web: WebUI, picture: Any) -> None:
    machine(0, 16)
    before = PanelHost().memory(Settings()).free
    assert before == 16 * GIB
    web.run(web.p(), reference=picture)
    held = sum(p.nbytes for p in KEEPER.residence.patcher.model.parameters())
    assert held > 10**5
    assert 0 <= PanelHost().memory(Settings()).free - before - held < held / 10, "buffers are held, too"
    KEEPER.residence.drop()
    assert PanelHost().memory(Settings()).free == before


def test_without_weights_and_while_a_number_is_being_typed_nothing_is_said(machine: Any, web: WebUI) -> None:
    for values in (
        {"hidden_layer": None},
        {"hidden_layer": -80},
        {"reference_tokens": 2.5},
        {"device": "gpu"},
        {"model": "gone"},
    ):
        assert memory_line(**values) == ""
    (web.weights / "tiny-vl").unlink()
    assert memory_line() == Built().memory.value == ""


def test_what_cant_be_told_is_left_out_and_breaks_nothing(
    machine: Any, web: WebUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    (web.weights / "broken.safetensors").write_bytes(b"nothing")
    assert memory_line(model="broken.safetensors") == ""
    assert memory_line(model="tiny-vl")
    monkeypatch.delattr(mm, "get_free_memory")
    assert memory_line(model="tiny-vl") == ""


def test_the_headers_are_read_once_for_each_state_of_the_files(
    machine: Any, web: WebUI, vl_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = forge_files.open_checkpoint
    monkeypatch.setattr(forge_files, "open_checkpoint", lambda path, name: opened.append(name) or real(path, name))
    for layer in range(-1, -9, -1):
        assert memory_line(hidden_layer=layer)
    assert opened == ["tiny-vl"]
    copy = web.weights / "copy"
    copy.mkdir()
    for file in vl_folder.iterdir():
        (copy / file.name).symlink_to(file) if file.suffix == ".safetensors" else (copy / file.name).write_bytes(
            file.read_bytes()
        )
    for _ in range(2):
        memory_line(model="copy")
    assert opened == ["tiny-vl", "copy"]
    os.utime(copy / "config.json", ns=(1, 1))
    for _ in range(2):
        memory_line(model="copy")
    assert opened == ["tiny-vl", "copy", "copy"]
    (copy / "config.json").write_text("{}")
    assert memory_line(model="copy") == "", "not what it was"


# --- the buttons


def test_the_forget_button_drops_what_runs_have_kept_and_says_how_much(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(gr, "Info", said.append)
    monkeypatch.setattr(KEEPER, "forget", lambda: 5 * 2**20)
    button = built.button("forget")
    assert button.webui_tooltip == "Forget what is kept of references (memory and disk)"
    (event,) = built.events(button, "click")
    assert event.fn() is None
    assert said == ["Z-Image VL: what was kept of references is forgotten (5.0 MiB)."]


# --- presets


@pytest.mark.parametrize("name", PRESETS)
def test_choosing_a_preset_sets_its_controls(built: Built, name: str) -> None:
    (event,) = built.events(built.controls["preset"], "input")
    updates = event.fn(name)
    assert len(updates) == len(event.outputs)
    for update, component in zip(updates, event.outputs):
        option = next(option for option in PRESETS[name] if built.controls[option] is component)
        assert update["value"] == PRESETS[name][option]


def test_choosing_custom_changes_nothing(built: Built) -> None:
    (event,) = built.events(built.controls["preset"], "input")
    assert all("value" not in update for update in event.fn(CUSTOM))


def test_changing_a_control_names_what_the_settings_amount_to(built: Built) -> None:
    values = PRESETS["Research default"]
    inputs = built.events(built.controls["alpha"], "change")[0].inputs
    order = [next(n for n, control in built.controls.items() if control is component) for component in inputs]
    for option in PRESETS["Research default"]:
        events = [e for e in built.events(built.controls[option], "change") if built.controls["preset"] in e.outputs]
        assert len(events) == 1, option
        assert events[0].fn(*[values[n] for n in order]) == "Research default"
    for preset, settings in PRESETS.items():
        assert events[0].fn(*[settings[n] for n in order]) == preset
    assert events[0].fn(*[0.31 if n == "alpha" else values[n] for n in order]) == CUSTOM
    assert events[0].fn(*[None for _ in order]) == CUSTOM


# --- paste


UNUSUAL = {
    "alpha": 0.55,
    "hidden_layer": -3,
    "token_mode": "all",
    "scale_to_text": False,
    "normalization": "per_dim",
    "outlier_repair": "clamp",
    "outlier_threshold": 2.5,
    "length_match": "truncate",
    "blend_mode": "slerp",
    "reference_tokens": 64,
    "vl_prompt": "a, b: c",
    "system_prompt": "512x512",
}


@pytest.fixture
def made(web: WebUI, picture: Any) -> dict[str, Any]:
    """The parameters of a picture in which nothing is a default."""
    p = web.run(web.p(), reference=picture, **UNUSUAL)
    pairs = ", ".join(f"{key}: {infotext_utils.quote(value)}" for key, value in p.extra_generation_params.items())
    return infotext_utils.parse_generation_parameters(
        f"a cat\nSteps: 8, Sampler: Euler, CFG scale: 1, {pairs}, Version: x"
    )


def test_pasting_sets_every_control(built: Built, made: dict[str, Any], picture: Any) -> None:
    values = built.pasted(made)
    assert values.pop("reference").tobytes() == picture.tobytes()
    expected = {"enabled": True, "model": "tiny-vl", "preset": CUSTOM, **UNUSUAL}
    assert expected.items() <= values.items()
    untouched = {o.name for o in OPTIONS} - set(values) - {"reference"}
    assert untouched <= {o.name for o in OPTIONS if not o.infotext}


def test_pasting_defaults_sets_every_control_back(built: Built, web: WebUI, picture: Any) -> None:
    p = web.run(web.p(), reference=picture)
    values = built.pasted({key: str(value) for key, value in p.extra_generation_params.items()})
    for option in OPTIONS:
        if option.infotext and option.kind not in ("image", "model"):
            assert values[option.name] == option.default


def test_pasting_another_picture_switches_off_and_touches_nothing_else(built: Built) -> None:
    assert built.pasted({"Prompt": "a cat", "Steps": "8"}) == {"enabled": False}


def test_pasting_what_is_not_here_any_more(built: Built, made: dict[str, Any]) -> None:
    values = built.pasted({**made, "ZVL model": "another", "ZVL reference": "0123456789ab", "ZVL alpha": "much"})
    assert not values.keys() & {"model", "reference", "alpha"}
    assert values["enabled"] is True


def test_the_webuis_own_paste_understands_the_fields(built: Built, made: dict[str, Any]) -> None:
    for field in built.fields:
        assert isinstance(field, infotext_utils.PasteField)
        assert field.function is not None or field.label is not None


# --- the script


@pytest.fixture
def runner(web: WebUI) -> Any:
    """The web UI's runner of the txt2img tab with this script alone."""
    hosts.load_scripts()
    script_callbacks.before_ui_callback()
    runner = scripts.ScriptRunner()
    runner.initialize_scripts(False)
    ours = [script for script in runner.alwayson_scripts if script.title() == TITLE]
    assert len(ours) == 1
    runner.alwayson_scripts[:] = runner.scripts[:] = ours
    with gr.Blocks():
        runner.create_script_ui(ours[0])
    return runner


def with_scripts(web: WebUI, runner: Any, change: Callable[[list], None], **fields: Any) -> Any:
    """A generation of this tab: the panel's values, some of them changed."""
    script = runner.alwayson_scripts[0]
    p = web.p(**fields)
    arguments = [0, *[component.value for component in runner.inputs[1:]]]
    own = arguments[script.args_from : script.args_to]
    change(own)
    p.scripts, p.script_args = runner, [*arguments[: script.args_from], *own, *arguments[script.args_to :]]
    p.setup_prompts()
    runner.process(p)
    p.scripts = None  # its other callbacks belong to sampling
    return web.condition(p)


def test_the_runner_hands_the_panel_over_in_order(web: WebUI, runner: Any, picture: Any) -> None:
    def change(own: list) -> None:
        own[ORDER.index("enabled")] = True
        own[ORDER.index("reference")] = picture
        own[ORDER.index("alpha")] = 0.5

    p = with_scripts(web, runner, change)
    assert same(p.c, web.run(web.p(), reference=picture, alpha=0.5).c)


def test_the_runners_defaults_change_nothing(web: WebUI, runner: Any) -> None:
    plain = web.plain()
    assert with_scripts(web, runner, lambda own: None).c is plain.c


def test_an_error_stops_the_run_though_the_runner_swallows_what_scripts_raise(
    web: WebUI, runner: Any, refused: Any
) -> None:
    def change(own: list) -> None:
        own[ORDER.index("enabled")], own[ORDER.index("reference")] = True, "no picture"

    with refused("not base64"):
        with_scripts(web, runner, change)


def test_the_apis_dict_in_the_first_place(web: WebUI, runner: Any, picture: Any) -> None:
    def change(own: list) -> None:
        own[0] = {"enabled": True, "reference": picture, "alpha": 0.5}

    assert same(with_scripts(web, runner, change).c, web.run(web.p(), reference=picture, alpha=0.5).c)


def test_recent_references_can_be_pasted_again(web: WebUI, picture: Any) -> None:
    web.run(web.p(), reference=picture)
    key = next(iter(KEEPER.recent._kept))
    assert len(key) == infotext.DIGEST
    assert isinstance(KEEPER.recent.get(key), Image.Image)
