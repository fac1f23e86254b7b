"""A choice has one table of what each of its values does, and the declared values are that table's names, in order."""

import pytest

from zvl_ext.engines import ENGINES
from zvl_ext.framing import CROPS
from zvl_ext.mixing.blend import BLEND_MODES
from zvl_ext.mixing.match import BLOCK_PLACES, LENGTH_MATCHES
from zvl_ext.mixing.normalize import NORMALIZATIONS, OUTLIER_DIRECTIONS, OUTLIER_REPAIRS
from zvl_ext.options import BY_NAME
from zvl_ext.sequence import TOKEN_MODES
from zvl_ext.weighting import CURVES

TABLES = {
    "engine": ENGINES,
    "token_mode": TOKEN_MODES,
    "normalization": NORMALIZATIONS,
    "outlier_repair": OUTLIER_REPAIRS,
    "length_match": LENGTH_MATCHES,
    "blend_mode": BLEND_MODES,
    "outlier_direction": OUTLIER_DIRECTIONS,
    "block_place": BLOCK_PLACES,
    "curve": CURVES,
    "crop": CROPS,
}


@pytest.mark.parametrize("option", TABLES)
def test_the_choices_of_an_option_are_the_names_in_its_table(option):
    assert BY_NAME[option].choices == tuple(TABLES[option])
