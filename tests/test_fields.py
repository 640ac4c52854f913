"""How the fields of a pattern lie side by side."""

from attractor_server.fields import Field, Layout

IMAGE = Field(name="image", kind="image", shape=(2, 3), minimum=0, maximum=1)
LABEL = Field(name="label", kind="text", shape=())
SOUND = Field(name="sound", kind="audio", shape=(4,))
LAYOUT = Layout((IMAGE, LABEL, SOUND))


def test_a_field_has_as_many_entries_as_its_shape_says_and_a_wide_range_unless_told() -> None:
    assert [field.size for field in LAYOUT.fields] == [6, 1, 4]
    assert (LABEL.minimum, LABEL.maximum) == (-1e6, 1e6)


def test_fields_lie_side_by_side_in_their_order_without_gaps() -> None:
    assert LAYOUT.size == 11
    assert LAYOUT.spans == [(IMAGE, slice(0, 6)), (LABEL, slice(6, 7)), (SOUND, slice(7, 11))]


def test_a_field_is_found_by_its_name_and_no_other() -> None:
    assert LAYOUT.field("label") is LABEL
    assert LAYOUT.field("Label") is None
