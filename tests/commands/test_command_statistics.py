"""`statistics`: the numbers of two files, for people and as JSON."""

import numpy as np
import pytest
import torch
from command_line import HIDDEN, assert_refused, pair, states, strict
from safetensors.torch import save_file


def test_statistics_tells_the_findings_numbers_with_and_without_position_0(process, work):
    texts = [work / f"{name}.safetensors" for name in ("text", "more")]
    done = process("statistics", "--text", *texts, "--vl", work / "vl.safetensors", "--json")
    assert done.code == 0, done.err
    told = strict(done.out)
    files = [states(work / f"{name}.safetensors").double().numpy() for name in ("text", "more", "vl")]
    for key, first in (("with_position_0", 0), ("without_position_0", 1)):
        text, vl = np.concatenate([file[first:] for file in files[:2]]), files[2][first:]
        ratio = vl.std(axis=0, ddof=1) / text.std(axis=0, ddof=1)
        assert (told[key]["text_tokens"], told[key]["vl_tokens"]) == (len(text), len(vl))
        assert told[key]["text_std"] == pytest.approx(text.std(ddof=1), rel=1e-4)
        assert told[key]["vl_std"] == pytest.approx(vl.std(ddof=1), rel=1e-4)
        assert told[key]["correlation"] == pytest.approx(
            np.corrcoef(vl.std(axis=0, ddof=1), text.std(axis=0, ddof=1))[0, 1], abs=1e-4
        )
        assert told[key]["worst_ratio"] == pytest.approx(np.maximum(ratio, 1 / ratio).max(), rel=1e-4)
        assert told[key]["worst_dimensions"][0][0] == int(np.maximum(ratio, 1 / ratio).argmax())


def test_image_rows_hold_no_position_0_and_keep_all_rows(cli, work):
    done = cli("statistics", *pair(work, vl="image_rows"), "--json")
    told = strict(done.out)
    assert told["vl_holds_position_0"] is False
    assert (told["without_position_0"]["text_tokens"], told["without_position_0"]["vl_tokens"]) == (8, 17)


def test_statistics_without_json_is_for_people(cli, work):
    done = cli("statistics", *pair(work))
    assert done.code == 0
    for words in ("with position 0", "without position 0", "global std", "correlation", "median", "worst"):
        assert words in done.out


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_statistics_of_one_token_are_still_numbers_or_a_clear_refusal(arguments, cli, work):
    """One token has no spread, and without position 0 nothing is left."""
    save_file({"hidden_states": torch.randn(1, HIDDEN)}, work / "one.safetensors")
    for text, vl in (("one", "vl"), ("text", "one"), ("one", "one")):
        done = cli("statistics", *pair(work, text, vl), *arguments)
        if done.code == 0:
            assert strict(done.out) if arguments else done.out
        else:
            assert_refused(done)


def test_a_dimension_that_never_changes_leaves_the_json_valid(cli, work):
    save_file({"hidden_states": torch.ones(9, HIDDEN)}, work / "flat.safetensors")
    done = cli("statistics", *pair(work, text="flat"), "--json")
    assert done.code == 0
    assert strict(done.out)
