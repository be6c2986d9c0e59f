import pytest

from mmconvnext.variants import VARIANTS, resolve_arch, resolve_hidden


@pytest.mark.parametrize("name", VARIANTS)
def test_names_resolve_to_the_table(name):
    assert resolve_arch(name) == VARIANTS[name]


def test_a_mapping_resolves_to_tuples():
    variant = resolve_arch({"depths": [1, 2, 3, 4], "widths": [8, 16, 24, 32]})
    assert variant.depths == (1, 2, 3, 4)
    assert variant.widths == (8, 16, 24, 32)


@pytest.mark.parametrize(
    ("arch", "error", "says"),
    [
        ("tinny", ValueError, "arch='tinny'.*atto.*huge"),
        (3, TypeError, "arch=3 is a int"),
        ({"depths": [1, 1, 1, 1]}, ValueError, "exactly 'depths' and 'widths'"),
        ({"depths": [1] * 4, "widths": [8] * 4, "width": 3}, ValueError, "exactly"),
        ({"depths": [1] * 3, "widths": [8] * 4}, ValueError, r"arch\['depths'\]=\[1, 1, 1\]"),
        ({"depths": [1] * 4, "widths": [8, 8, 8, 0]}, ValueError, r"arch\['widths'\]"),
        ({"depths": [1, 1, 1, True], "widths": [8] * 4}, ValueError, r"arch\['depths'\]"),
        ({"depths": 4, "widths": [8] * 4}, ValueError, r"arch\['depths'\]=4"),
        ({"depths": "1111", "widths": [8] * 4}, ValueError, r"arch\['depths'\]"),
    ],
)
def test_wrong_archs_name_the_argument_the_value_and_the_choices(arch, error, says):
    with pytest.raises(error, match=says):
        resolve_arch(arch)


FOUR = {"depths": [1, 1, 2, 1], "widths": [8, 16, 24, 32]}


def test_hidden_channels_are_four_times_the_width_or_those_that_are_given():
    assert resolve_hidden("atto")[2] == (640,) * 6
    assert resolve_hidden(FOUR) == ((32,), (64,), (96, 96), (128,))
    assert resolve_hidden({**FOUR, "hidden": [[8], [1], [9, 100], [3]]}) == (
        (8,),
        (1,),
        (9, 100),
        (3,),
    )


@pytest.mark.parametrize(
    "hidden", [[[8], [1], [9], [3]], [[8], [1], [9, 0], [3]], [8, 1, 9, 3], 4, [[8], [1], [9, 9]]]
)
def test_wrong_hidden_channels_are_named(hidden):
    with pytest.raises(
        ValueError, match=r"arch\['hidden'\]=.*for each of its blocks: 1, 1, 2, 1 of"
    ):
        resolve_hidden({**FOUR, "hidden": hidden})
