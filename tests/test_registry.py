"""Parts by name, with options, or as finished objects."""

from functools import partial

import pytest

from shrinkml_env.registry import bind_options, resolve, resolve_for


class Part:
    def __init__(self, subject, *, size, colour="red"):
        self.made_of = subject, size, colour


class Other(Part):
    pass


def plain(size=1):
    return ("plain", size)


REGISTRY = {"part": Part, "other": Other}


def test_options_are_bound_and_the_rest_comes_later():
    made = bind_options("thing", REGISTRY, {"name": "other", "size": 3}, positional=1)("subject")
    assert (type(made), made.made_of) == (Other, ("subject", 3, "red"))


def test_a_name_or_a_mapping_or_a_finished_object():
    assert resolve("thing", {"plain": plain}, "plain", tuple) == ("plain", 1)
    assert resolve("thing", {"plain": plain}, {"name": "plain", "size": 2}, tuple) == ("plain", 2)
    finished = ("finished",)
    assert resolve("thing", {"plain": plain}, finished, tuple) is finished


@pytest.mark.parametrize(
    "spec", [{"name": "part", "size": 4}, partial(Part, size=4), lambda subject: Part(subject, size=4)]
)
def test_parts_of_a_subject(spec):
    assert resolve_for("thing", REGISTRY, spec, Part, "subject").made_of == ("subject", 4, "red")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("prat", "no thing is named 'prat'; known names: other, part"),
        ({"size": 3}, "lacks 'name'; known names: other, part"),
        ("part", "thing 'part' needs the option 'size'; its options are size, colour"),
        ({"name": "part", "size": 1, "weight": 2}, "thing 'part' has no option 'weight'; its options are size, colour"),
        (
            {"name": "part", "subject": 1, "size": 1},
            "thing 'part' has no option 'subject'; its options are size, colour",
        ),
        (Part("subject", size=1), "thing: must be a name, a mapping with 'name' and options, or a class of Part"),
        (int, "must be a name, a mapping with 'name' and options, or a class of Part"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        resolve_for("thing", REGISTRY, spec, Part, "subject")


def test_a_class_in_place_of_an_object_is_to_be_called():
    with pytest.raises(ValueError, match="got the class Part: call it"):
        resolve("thing", REGISTRY, Part, Part)
