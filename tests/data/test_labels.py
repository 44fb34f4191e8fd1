"""INSTA's label numbers and the regions that they make up."""

import numpy as np
import pytest

from headfields.data.labels import PARSERS, REGION_LABELS, Label, label_lookup, labels_from_parser, labels_of


def test_weights_by_region_name() -> None:
    table = label_lookup({"mouth": 4, 250: 0.5})
    assert table[list(REGION_LABELS["mouth"])].tolist() == [4, 4, 4] and float(table[250]) == 0.5
    assert float(table[0]) == 1 and table.shape == (256,)
    with pytest.raises(ValueError, match="no region or label 'forehead'; regions are background, mouth"):
        label_lookup({"forehead": 1})
    with pytest.raises(ValueError, match="no region or label 300"):
        label_lookup({300: 1})
    with pytest.raises(ValueError, match="the weight of 'mouth' is -1"):
        label_lookup({"mouth": -1})


def test_labels_of_regions() -> None:
    assert labels_of("cloth", "neck", "cloth") == (90, 100, 110)
    assert set().union(*REGION_LABELS.values()) == set(Label)  # every label is in a region
    with pytest.raises(ValueError, match="there is no region 'forehead'; regions are background, mouth"):
        labels_of("mouth", "forehead")


def test_labels_of_face_parsers_are_whole() -> None:
    """Every number has a label, none is used twice, and those of parsers that know the same parts are the same set."""
    for parser, table in PARSERS.items():
        assert len(set(table)) == len(table) == (11 if parser == "farl-lapa" else 19), parser
        assert table[0] is Label.BACKGROUND
    parts = [set(PARSERS[name]) for name in ("celebamask", "bisenet", "farl-celebm")]
    assert parts[0] == parts[1] == parts[2] == set(Label) and set(PARSERS["farl-lapa"]) < parts[0]


@pytest.mark.parametrize(
    ("parser", "numbers", "labels"),
    [  # as face-parsing.PyTorch, CelebAMask-HQ's g_mask.py and facer's label_names number them
        ("bisenet", [4, 6, 11, 12, 13, 15, 18], ["LEFT_EYE", "GLASSES", "MOUTH_INTERIOR", "UPPER_LIP", "LOWER_LIP",
                                                 "NECKLACE", "HAT"]),
        ("celebamask", [2, 3, 6, 10, 13, 15, 18], ["NOSE", "GLASSES", "LEFT_BROW", "MOUTH_INTERIOR", "HAIR", "EARRING",
                                                   "CLOTH"]),
        ("farl-celebm", [1, 4, 12, 13, 15, 18], ["NECK", "RIGHT_EAR", "LOWER_LIP", "UPPER_LIP", "GLASSES", "NECKLACE"]),
        ("farl-lapa", [1, 2, 7, 10], ["SKIN", "RIGHT_BROW", "UPPER_LIP", "HAIR"]),
    ],
)  # fmt: skip
def test_labels_of_face_parsers(parser: str, numbers: list[int], labels: list[str]) -> None:
    out = labels_from_parser(np.array([numbers]), parser)
    assert out.dtype == np.uint8 and [Label(number).name for number in out[0]] == labels


def test_labels_of_another_parser_are_refused() -> None:
    assert labels_from_parser(np.zeros((0, 3), np.int64), "bisenet").shape == (0, 3)
    with pytest.raises(ValueError, match="numbers from 0 to 18; farl-lapa has 0 to 10"):
        labels_from_parser(np.array([[0, 18]], np.uint8), "farl-lapa")
    with pytest.raises(ValueError, match="no parser 'maskgan'; expected one of celebamask"):
        labels_from_parser(np.zeros((1, 1), np.int64), "maskgan")
