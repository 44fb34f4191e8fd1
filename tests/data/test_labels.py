"""INSTA's label numbers and the regions that they make up."""

import pytest

from headfields.data.labels import REGION_LABELS, Label, label_lookup, labels_of


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
