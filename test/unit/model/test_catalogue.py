from __future__ import annotations

import pytest

from pyfuncserver.errors import NotReady, UnknownModel, UnnamedModel
from pyfuncserver.model.catalogue import NO_MODELS, Catalogue, Entry
from pyfuncserver.model.identity import Identity


def entry(name: str, version: str, why_not: str = "") -> Entry:
    return Entry(Identity(name, version, f"{name}-{version}"), why_not=why_not)


ALONE = Catalogue.of(Identity("m", "1", "the-model"))
MANY = Catalogue(
    [entry("a", "1"), entry("a", "2"), entry("a", "3", "broken"), entry("b", "1", "broken")],
    default="a-2",
    is_repository=True,
)


@pytest.mark.parametrize(
    ("name", "version", "key"),
    [
        ("m", "", "the-model"),
        ("m", "1", "the-model"),
        ("the-model", "", "the-model"),
        ("the-model", "1", "the-model"),
        ("m", "2", "m/versions/2"),
        ("other", "", "other"),
    ],
)
def test_names_of_the_one_model(name: str, version: str, key: str) -> None:
    assert ALONE.key_of(name, version) == key
    assert (key in ALONE) == (key == "the-model")


@pytest.mark.parametrize(
    ("name", "version", "key"),
    [
        ("a", "", "a-2"),  # the latest that is loaded
        ("a", "1", "a-1"),
        ("a", "3", "a-3"),
        ("a-1", "", "a-1"),
        ("b", "", "b-1"),
        ("a-1", "2", "a-1/versions/2"),
    ],
)
def test_names_of_several(name: str, version: str, key: str) -> None:
    assert MANY.key_of(name, version) == key


def test_v1_knows_bare_names_in_a_repository_only() -> None:
    assert MANY.full_key_of("a") == "a-2"
    assert MANY.full_key_of("a-1") == "a-1"
    assert ALONE.full_key_of("m") == "m"
    assert ALONE.full_key_of("the-model") == "the-model"


def test_what_is_not_served() -> None:
    assert MANY.demand_loaded("a-1").identity.version == "1"
    assert isinstance(MANY.missing("b-1"), NotReady)
    assert isinstance(MANY.missing("c"), UnknownModel)
    assert isinstance(NO_MODELS.missing(""), UnnamedModel)
    with pytest.raises(AssertionError):
        MANY.missing("a-1")


def test_versions() -> None:
    assert [one.identity.version for one in MANY.versions_of("a")] == ["1", "2", "3"]
    assert [one.identity.version for one in MANY.versions_of("a-2")] == ["2"]
    with pytest.raises(UnknownModel):
        MANY.versions_of("c")
