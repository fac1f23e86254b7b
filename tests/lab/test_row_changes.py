"""What is done to a reference's rows in the evidence: each against its definition, row by row."""

from __future__ import annotations

import pytest
import torch

from zvl_ext.lab.evaluation.experiments import WEIGHTED, Row
from zvl_ext.lab.evaluation.row_changes import ROW_CHANGES
from zvl_ext.mixing.select import Rows

HIDDEN, TEXT, IMAGE = 16, 7, 9


def selected(seed: int) -> Rows:
    """Rows as token mode all selects them: three of the head, a block of markers and image rows, the prompt's."""
    torch.manual_seed(seed)
    roles = "t" * 3 + "m" + "i" * IMAGE + "m" + "t" * (TEXT - 2)
    text, image = (torch.tensor([role == each for role in roles]) for each in "ti")
    return Rows(torch.randn(len(roles), HIDDEN) * 3 + 1, text, image, 3, 2, (3, 3))


@pytest.fixture(scope="module")
def rows() -> Rows:
    return selected(1)


@pytest.fixture(scope="module")
def prompt() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(TEXT, HIDDEN) - 2


def changed(name: str, rows: Rows, prompt: torch.Tensor) -> Rows:
    return ROW_CHANGES[name](rows, prompt, selected(3))


@pytest.mark.parametrize("name", ROW_CHANGES)
def test_only_the_rows_that_it_is_about_change(name: str, rows: Rows, prompt: torch.Tensor) -> None:
    before = rows.states.clone()
    made = changed(name, rows, prompt)
    assert torch.equal(rows.states, before)
    of_prompt = "prompt's rows" in name
    kept = rows.image if of_prompt else ~rows.image
    assert torch.equal(made.states[made.image if of_prompt else ~made.image], rows.states[kept])
    assert not torch.equal(made.states[-TEXT:], rows.states[-TEXT:]) or not of_prompt
    assert made.counts.sum() == rows.counts.sum()
    assert made.states.isfinite().all()


def test_pooled_rows_have_the_reference_s_mean_and_its_strongest_directions(rows: Rows, prompt: torch.Tensor) -> None:
    states = rows.states[rows.image].double()
    one = changed("mean of the image rows", rows, prompt)
    torch.testing.assert_close(one.states[one.image], states.mean(0, keepdim=True).float())
    five = changed("mean and spread of the image rows", rows, prompt)
    out = five.states[five.image].double() - states.mean(0)
    covariance = torch.cov(states.T, correction=0)
    values, directions = torch.linalg.eigh(covariance)
    for row, back, value, direction in ((1, 3, values[-1], directions[:, -1]), (2, 4, values[-2], directions[:, -2])):
        torch.testing.assert_close(out[row].norm(), value.sqrt(), rtol=1e-4, atol=1e-5)
        assert abs(torch.dot(out[row] / out[row].norm(), direction)) > 0.999
        torch.testing.assert_close(out[row], -out[back], rtol=1e-4, atol=1e-5)


def test_statistics_become_the_prompt_s(rows: Rows, prompt: torch.Tensor) -> None:
    for name in ("whitened image rows", "image rows without their mean"):
        made = changed(name, rows, prompt)
        torch.testing.assert_close(made.states[made.image].mean(0), prompt.mean(0), rtol=1e-4, atol=1e-4)
    made = changed("whitened image rows", rows, prompt)
    torch.testing.assert_close(
        made.states[made.image].std(0, correction=0), prompt.std(0, correction=0), rtol=1e-4, atol=1e-4
    )
    same = changed("image rows minus a neutral reference's", selected(3), prompt)
    torch.testing.assert_close(same.states[same.image], prompt.mean(0).expand(IMAGE, -1))


def test_what_the_prompt_says_is_gone(rows: Rows, prompt: torch.Tensor) -> None:
    made = changed("image rows minus what the prompt says", rows, prompt)
    _, _, directions = torch.linalg.svd(prompt - prompt.mean(0), full_matrices=False)
    left = (made.states[made.image] - rows.states[rows.image].mean(0)) @ directions[:4].T
    assert left.abs().max() < 1e-4
    assert ((made.states - rows.states)[rows.image] @ directions[:4].T).abs().max() > 0.1


def test_the_share_of_the_prompt_s_rows_goes_along_the_prompt(rows: Rows, prompt: torch.Tensor) -> None:
    places = rows.text.nonzero().flatten()[-TEXT:]
    rising, falling = (
        changed(f"share of the prompt's rows {way} along it", rows, prompt) for way in ("rises", "falls")
    )
    for number, place in enumerate(places):
        share = number / (TEXT - 1)
        torch.testing.assert_close(rising.states[place], prompt[number] + share * (rows.states[place] - prompt[number]))
        torch.testing.assert_close(
            falling.states[place], prompt[number] + (1 - share) * (rows.states[place] - prompt[number])
        )


def test_a_measurement_s_key_knows_its_change() -> None:
    keys = {Row("roles", "", "settings", WEIGHTED, 4, change=change).key for change in ("", *ROW_CHANGES)}
    assert len(keys) == len(ROW_CHANGES) + 1
