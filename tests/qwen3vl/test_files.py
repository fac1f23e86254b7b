"""The list of names that models are chosen by: what fits, told by what files are, in folders of any content."""

import json
import os
import time
from pathlib import Path

import headers
import pytest

from zvl_ext.qwen3vl import listing
from zvl_ext.qwen3vl.files import find, open_checkpoint
from zvl_ext.qwen3vl.listing import look


def model(path: Path) -> Path:
    return headers.safetensors(path, headers.QWEN3_VL)


def parts(folder: Path, count: int = 2, index: bool = True, config: bool = True) -> Path:
    """A Hugging Face folder of several parts."""
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    for i, name in enumerate(names):
        headers.safetensors(folder / name, dict(list(headers.QWEN3_VL.items())[i::count]))
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(names))}))
    if config:
        (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    return folder


def problems(*folders: Path) -> dict[str, str]:
    return {name: model.problem for name, model in look([str(folder) for folder in folders]).models.items()}


# --- names


def test_folders_and_files_are_listed_by_names_relative_to_where_they_were_found(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    model(a / "one.safetensors"), model(a / "deep" / "er" / "two.SAFETENSORS"), model(a / "three.sft")
    parts(a / "Qwen3-VL")
    headers.folder(b / "x" / "Thinking")
    model(b / ".hidden" / "four.safetensors")
    for name in ("notes.txt", "old.bin", "empty/config.json", "empty.safetensors"):
        (b / name).parent.mkdir(exist_ok=True)
        (b / name).write_bytes(b"")
    assert find([str(a), str(b)]) == {
        "one.safetensors": str(a / "one.safetensors"),
        "three.sft": str(a / "three.sft"),
        "deep/er/two.SAFETENSORS": str(a / "deep" / "er" / "two.SAFETENSORS"),
        "Qwen3-VL": str(a / "Qwen3-VL"),
        "x/Thinking": str(b / "x" / "Thinking"),
    }


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("ending", ["", "/"])
def test_a_folder_that_is_itself_a_model_is_one_model(shards, ending, tmp_path):
    folder = tmp_path / "qwen3_vl"
    parts(folder, shards) if shards > 1 else headers.folder(folder)
    assert find([str(folder) + ending]) == {"qwen3_vl": str(folder)}
    headers.folder(folder / "another")
    model(folder / "single.safetensors")
    assert set(find([str(folder)])) == {"qwen3_vl", "another", "single.safetensors"}


def test_a_file_can_be_named_as_a_place(tmp_path):
    path = model(tmp_path / "one.safetensors")
    assert find([str(path)]) == {"one.safetensors": str(path)}
    assert find([str(headers.safetensors(tmp_path / "clip.safetensors", headers.OTHERS["CLIP text encoder"]))]) == {}


def test_the_first_folder_wins_the_name_and_the_second_gets_another(tmp_path):
    for root in ("a", "b"):
        model(tmp_path / root / "one.safetensors")
    found = find([str(tmp_path / "b"), str(tmp_path / "a")])
    assert found == {
        "one.safetensors": str(tmp_path / "b" / "one.safetensors"),
        "a/one.safetensors": str(tmp_path / "a" / "one.safetensors"),
    }


def test_no_name_leaves_its_folder(tmp_path):
    model(tmp_path / "secret.safetensors")
    model(tmp_path / "root" / "in" / "one.safetensors")
    headers.folder(tmp_path / "root" / "models--..--x" / "snapshots" / "0")
    names = find([str(tmp_path / "root"), str(tmp_path / "root") + "/"])
    assert set(names) == {"in/one.safetensors", "models--..--x/snapshots/0"}
    assert not any(name.startswith(("/", "..")) or ".." in name.split("/") for name in names)
    for name in (
        "../secret.safetensors",
        "/etc/passwd",
        str(tmp_path / "secret.safetensors"),
        "in/../../secret.safetensors",
    ):
        assert name not in names


def test_a_name_that_no_page_can_show_is_left_out(tmp_path):
    model(tmp_path / "a\nb.safetensors")
    model(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors")))
    assert find([str(tmp_path)]) == {}


# --- what fits


@pytest.mark.parametrize("what", headers.OTHERS)
def test_another_model_is_not_listed_and_says_what_it_is(what, tmp_path, refused):
    path = headers.safetensors(tmp_path / "a.safetensors", headers.OTHERS[what])
    model(tmp_path / "z.safetensors")
    found = look([str(tmp_path)])
    assert list(found.models) == ["z.safetensors"]
    assert list(found.others) == ["a.safetensors"]
    with refused(rf"^a\.safetensors is not a Qwen3-VL-4B: it is (a |the )?.*{what}(?!.* again)"):
        open_checkpoint(str(path))


@pytest.mark.parametrize("prefix", ["", "model.", "text_encoders.qwen3vl_4b.transformer.model."])
def test_all_in_one_files_are_known_by_the_endings_of_their_names(prefix, tmp_path):
    shapes = headers.eyes(2560, prefix + "visual.") | headers.norms(2560, prefix + "layers.0.")
    image_model = {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (8, 8)}
    headers.safetensors(tmp_path / "all.safetensors", image_model | shapes)
    assert list(find([str(tmp_path)])) == ["all.safetensors"]


@pytest.mark.parametrize("model_type", ["qwen3", "qwen2_5_vl", "qwen3_5", "clip_text_model", "t5"])
def test_folders_of_other_models_are_not_listed_nor_are_their_parts(model_type, tmp_path):
    headers.folder(tmp_path / "one", headers.norms(2560), model_type)
    parts(tmp_path / "two")
    (tmp_path / "two" / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert find([str(tmp_path)]) == {}


@pytest.mark.parametrize(("width", "listed"), [(2048, False), (2560, True), (4096, False), (64, True)])
def test_folders_of_other_sizes_are_not_listed(width, listed, tmp_path):
    headers.folder(tmp_path / "one", width=width)
    assert list(find([str(tmp_path)])) == ["one"] * listed


def test_the_first_is_whole_and_has_both_parts(tmp_path):
    headers.safetensors(tmp_path / "a-tower.safetensors", headers.TOWER)
    headers.safetensors(tmp_path / "b-half.safetensors", headers.QWEN3_VL)
    os.truncate(tmp_path / "b-half.safetensors", os.path.getsize(tmp_path / "b-half.safetensors") - 1)
    model(tmp_path / "c-whole.safetensors")
    assert list(find([str(tmp_path)])) == ["c-whole.safetensors", "a-tower.safetensors", "b-half.safetensors"]


def test_a_gguf_of_the_vision_tower_is_listed_and_a_language_model_beside_one(tmp_path):
    tower = {
        "general.architecture": "clip",
        "clip.projector_type": "qwen3vl_merger",
        "clip.vision.projection_dim": 2560,
    }
    language = {"general.architecture": "qwen3vl", "qwen3vl.embedding_length": 2560}
    headers.gguf(tmp_path / "alone" / "lm.gguf", language)
    headers.gguf(tmp_path / "both" / "lm.gguf", language)
    headers.gguf(tmp_path / "both" / "mmproj.gguf", tower)
    headers.gguf(tmp_path / "8b" / "mmproj.gguf", tower | {"clip.vision.projection_dim": 4096})
    headers.gguf(tmp_path / "other" / "lm.gguf", {"general.architecture": "llama"})
    headers.gguf(tmp_path / "other" / "mmproj.gguf", tower | {"clip.projector_type": "qwen2.5vl_merger"})
    assert list(find([str(tmp_path)])) == ["both/lm.gguf", "both/mmproj.gguf"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"general.architecture": "llama"}, "a GGUF of llama"),
        ({"general.architecture": "qwen3", "qwen3.embedding_length": 2560}, "a Qwen3-4B, text only"),
        ({"general.architecture": "clip", "clip.projector_type": "qwen2.5vl_merger"}, "the vision tower of another"),
        (
            {
                "general.architecture": "clip",
                "clip.projector_type": "qwen3vl_merger",
                "clip.vision.projection_dim": 4096,
            },
            "the vision tower of Qwen3-VL-8B",
        ),
    ],
)
def test_another_models_gguf_says_what_it_is(fields, says, tmp_path, refused):
    with refused(f"one.gguf is not a Qwen3-VL-4B: it is {says}"):
        open_checkpoint(str(headers.gguf(tmp_path / "one.gguf", fields)))


def test_a_ggufs_language_model_without_its_vision_tower_says_what_is_missing(tmp_path, refused):
    path = headers.gguf(tmp_path / "one.gguf", {"general.architecture": "qwen3vl", "qwen3vl.embedding_length": 2560})
    with refused("the language model of Qwen3-VL-4B alone. Put its mmproj file"):
        open_checkpoint(str(path))


# --- what is not whole


def test_parts_without_a_configuration_are_one_entry_that_says_what_is_missing(tmp_path, refused):
    folder = parts(tmp_path / "Qwen3-VL-4B-Instruct", index=False, config=False)
    assert find([str(tmp_path)]) == {"Qwen3-VL-4B-Instruct": str(folder)}
    assert problems(tmp_path) == {"Qwen3-VL-4B-Instruct": "config.json is missing"}
    with refused(r"config\.json can't be read \(it is not there\)\. These are parts of a model: put config\.json"):
        open_checkpoint(str(folder))
    with refused(r"model-00001-of-00002\.safetensors is part 1 of 2 of a model. Choose its folder"):
        open_checkpoint(str(folder / "model-00001-of-00002.safetensors"))


@pytest.mark.parametrize("index", [True, False])
def test_a_part_that_is_a_folder_of_its_own_name_says_so(index, tmp_path, refused):
    folder = parts(tmp_path / "one", index=index)
    for file in sorted(folder.glob("*.safetensors")):
        file.rename(folder / "x")
        file.mkdir()
        (folder / "x").rename(file / file.name)
    assert list(problems(tmp_path)) == ["one"]
    with refused(r"model-00001-of-00002\.safetensors is a folder, it has to be a file \(the file is in it: move it up"):
        open_checkpoint(str(folder))
    with refused(r"model-00001-of-00002\.safetensors is a folder, it has to be a file"):
        open_checkpoint(str(folder / "model-00001-of-00002.safetensors"))


@pytest.mark.parametrize("ending", [".part", ".incomplete", ".aria2", ".crdownload"])
@pytest.mark.parametrize("index", [True, False])
def test_a_download_on_its_way_says_so(ending, index, tmp_path, refused):
    folder = parts(tmp_path / "one", index=index)
    last = folder / "model-00002-of-00002.safetensors"
    if ending == ".aria2":  # the file has its full size from the start
        (folder / (last.name + ending)).write_bytes(b"")
        wanted = "model-00002-of-00002.safetensors is a download that has not finished"
    else:
        last.rename(folder / (last.name + ending))
        wanted = f"missing; model-00002-of-00002.safetensors{ending} is a download that has not finished"
    with refused(wanted):
        open_checkpoint(str(folder))
    with refused("is a download that has not finished"):
        open_checkpoint(str(folder / (last.name + ending)))
    assert list(problems(tmp_path)) == ["one"]
    assert problems(tmp_path)["one"]


def test_a_download_of_hf_local_dir_on_its_way_says_so(tmp_path, refused):
    folder = parts(tmp_path / "one")
    (folder / "model-00002-of-00002.safetensors").unlink()
    hub = folder / ".cache" / "huggingface" / "download"
    hub.mkdir(parents=True)
    (hub / "model-00002-of-00002.safetensors.0a1b.incomplete").write_bytes(b"")
    with refused("00002.safetensors is missing; .*incomplete is a download that has not finished"):
        open_checkpoint(str(folder))


def test_a_part_too_few_is_named_without_an_index(tmp_path, refused):
    folder = parts(tmp_path / "one", 4, index=False)
    (folder / "model-00003-of-00004.safetensors").unlink()
    with refused("one: part 3 of 4 is missing"):
        open_checkpoint(str(folder))


def test_how_much_of_a_file_is_there_is_said(tmp_path, refused):
    path = headers.safetensors(tmp_path / "one.safetensors", headers.QWEN3_VL | {"model.visual.x": (10**9, 2)})
    os.truncate(path, 10**9)
    with refused(r"one.safetensors is not a whole safetensors file \(1.0 GB of 4.0 GB are there: a download that has"):
        open_checkpoint(str(path))
    assert list(problems(tmp_path)) == ["one.safetensors"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS: run git lfs pull"),
        (b"\x80\x02}q\x00.", "it is a pickle"),
        (b"PK\x03\x04" + b"\0" * 100, "a zip archive or a pickle"),
    ],
)
def test_a_file_that_is_something_else_says_what(data, says, tmp_path, refused):
    (tmp_path / "one.safetensors").write_bytes(data)
    assert find([str(tmp_path)]) == {}
    with refused(rf"one\.safetensors is not a whole safetensors file \(.*{says}"):
        open_checkpoint(str(tmp_path / "one.safetensors"))


def test_files_of_several_models_beside_one_configuration_are_listed_one_by_one(tmp_path, refused):
    folder = headers.folder(tmp_path / "one")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    model(folder / "b.safetensors")
    assert set(find([str(tmp_path)])) == {"one/a.safetensors", "one/b.safetensors"}
    with refused("one: it has the files of several models. Name one of them"):
        open_checkpoint(str(folder))


# --- links


@pytest.fixture
def cache(tmp_path) -> Path:
    """A Hugging Face cache: what a snapshot holds are links."""
    hub = tmp_path / "hub"
    repository = hub / "models--Qwen--Qwen3-VL-4B-Instruct"
    source = parts(repository / "blobs")
    for revision in ("aaaa1111", "bbbb2222"):
        (repository / "snapshots" / revision).mkdir(parents=True)
        for file in sorted(source.iterdir()):
            (repository / "snapshots" / revision / file.name).symlink_to(Path("..", "..", "blobs", file.name))
    for file in sorted(source.iterdir()):  # blobs have no endings
        (repository / "blobs" / file.name).rename(repository / "blobs" / file.name.replace(".", "_"))
    for link in repository.glob("snapshots/*/*"):
        name = link.name
        link.unlink()
        link.symlink_to(Path("..", "..", "blobs", name.replace(".", "_")))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("bbbb2222")
    return hub


def test_a_hugging_face_cache_lists_a_model_once_by_a_readable_name(cache, tmp_path):
    repository = cache / "models--Qwen--Qwen3-VL-4B-Instruct"
    snapshot = repository / "snapshots" / "bbbb2222"
    for root in (cache, tmp_path, repository, repository / "snapshots", snapshot):
        assert find([str(root)]) == {"Qwen/Qwen3-VL-4B-Instruct": str(snapshot)}
    assert problems(cache) == {"Qwen/Qwen3-VL-4B-Instruct": ""}


def test_a_snapshot_with_other_weights_is_another_model(cache):
    other = cache / "models--Qwen--Qwen3-VL-4B-Instruct" / "snapshots" / "aaaa1111" / "model-00001-of-00002.safetensors"
    data = other.read_bytes()
    other.unlink()
    other.write_bytes(data)
    assert list(find([str(cache)])) == ["Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-4B-Instruct@aaaa1111"]


def test_folders_that_are_not_there_and_links_in_a_circle_do_no_harm(tmp_path):
    root = tmp_path / "root"
    model(root / "one.safetensors")
    (root / "again").symlink_to(root, target_is_directory=True)
    (root / "a").mkdir()
    (root / "a" / "b").symlink_to(root / "c")
    (root / "c").symlink_to(root / "a" / "b")
    (root / "dangling.safetensors").symlink_to(root / "gone")
    names = find([str(tmp_path / "nowhere"), str(root), "a\0b"])
    assert names == {"one.safetensors": str(root / "one.safetensors")}


def test_a_link_is_a_name_that_the_user_gave(tmp_path):
    headers.folder(tmp_path / "elsewhere" / "one")
    (tmp_path / "root").mkdir()
    for name in ("mine", "yours"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere" / "one")
    assert list(find([str(tmp_path / "root")])) == ["mine", "yours"]
    assert list(find([str(tmp_path / "root"), str(tmp_path / "elsewhere")])) == ["mine", "yours"], "listed already"


# --- what costs


def test_files_that_are_none_are_never_opened(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    folder = headers.folder(tmp_path / "one")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    for name in ("model.safetensors.index.json", "tokenizer.json"):
        (folder / name).symlink_to("/dev/zero")
    assert find([str(tmp_path)]) == {"one/model.safetensors": str(folder / "model.safetensors")}
    for name, says in {"pipe": "a pipe", "zero": "a device"}.items():
        with refused(f"{name}.safetensors: it is {says}"):
            open_checkpoint(str(tmp_path / f"{name}.safetensors"))
    with refused(r"config.json can't be read \(it is a pipe"):
        open_checkpoint(str(folder))
    (folder / "config.json").unlink()
    (folder / "config.json").write_text('{"model_type": "qwen3_vl"}')
    with refused(r"model.safetensors.index.json can't be read \(it is a device"):
        open_checkpoint(str(folder))


def test_a_header_is_read_once_for_each_state_of_its_file(tmp_path, monkeypatch):
    path = model(tmp_path / "one.safetensors")
    headers.safetensors(tmp_path / "two.safetensors", headers.OTHERS["a VAE"])
    assert len(find([str(tmp_path)])) == 1
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda file, *more, **named: opened.append(file) or real(file, *more, **named))
    assert len(find([str(tmp_path)])) == 1
    assert opened == []
    headers.safetensors(path, headers.OTHERS["a VAE"])
    assert find([str(tmp_path)]) == {}
    assert set(opened) == {str(path)}


def test_depth_number_and_time_are_bounded(tmp_path, monkeypatch):
    deep = tmp_path
    for level in range(12):
        deep = deep / str(level)
    model(deep / "deep.safetensors")
    model(tmp_path / "one.safetensors")
    assert list(find([str(tmp_path)])) == ["one.safetensors"]
    for number in range(50):
        (tmp_path / f"{number}.txt").write_bytes(b"")
    monkeypatch.setattr(listing, "_ENTRIES", 200)
    headers.folder(tmp_path / "z" / "two")
    assert look([str(tmp_path)]).cut == ""
    monkeypatch.setattr(listing, "_SECONDS", -1)
    cut = look([str(tmp_path)])
    assert "ended in" in cut.cut
    assert cut.models == {}


def test_a_large_folder_is_searched_quickly(tmp_path):
    for number in range(100):
        headers.safetensors(
            tmp_path / str(number % 20) / f"{number}.safetensors",
            {f"double_blocks.{i}.img_attn.qkv.weight": (8, 8) for i in range(300)},
        )
    model(tmp_path / "z.safetensors")
    begin = time.perf_counter()
    assert list(find([str(tmp_path)])) == ["z.safetensors"]
    assert time.perf_counter() - begin < 5
    begin = time.perf_counter()
    assert list(find([str(tmp_path)])) == ["z.safetensors"]
    assert time.perf_counter() - begin < 1
