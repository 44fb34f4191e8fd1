"""Names on disk stay those of version 0.1.0."""

from headfields.runs.disk_names import from_disk, to_disk


def test_names_are_translated_at_every_depth_and_back() -> None:
    content = {"options": {"weights": [{"color": 1.0}, {"color_weight": 2.0}]}, "mask": "color"}
    on_disk = to_disk(content)
    assert on_disk == {"options": {"weights": [{"colour": 1.0}, {"colour_weight": 2.0}]}, "mask": "color"}
    assert from_disk(on_disk) == content == from_disk(content)
