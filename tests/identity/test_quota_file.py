"""The file of quotas: what it says, and what it cannot mean."""

import re
from pathlib import Path

import pytest

from attractor_server.errors import SettingsError
from attractor_server.identity.quota_file import UNBOUNDED, Quota, read_quotas


def written(folder: Path, text: str) -> Path:
    path = folder / "quotas.toml"
    path.write_text(text)
    return path


def test_the_first_quota_whose_pattern_fits_a_namespace_counts(tmp_path: Path) -> None:
    table = read_quotas(
        written(
            tmp_path,
            '[[quota]]\nnamespace = "big"\nitems = 1_000\n[[quota]]\nnamespace = ""\nmemories = 3\n'
            '[[quota]]\nnamespace = "team-*"\npatterns_per_s = 2.5\nhandles = 0\n',
        )
    )
    assert table.find("big") == Quota(items=1000)
    assert table.find("") == Quota(memories=3)
    assert table.find("team-7") == Quota(patterns_per_s=2.5, handles=0)
    assert table.find("other") == UNBOUNDED


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[quota]]\nmemories = 1", "quota 1: namespace is missing"),
        ('[[quota]]\nnamespace = "a/b"', r"quota 1: namespace: saw 'a/b'; expected the part of names before"),
        ('[[quota]]\nnamespace = "a"\nmemory = 1', r"quota 1: saw \['memory'\]; expected namespace, memories, items"),
        ('[[quota]]\nnamespace = "a"\nitems = -1', "quota 1: items: saw -1; expected a whole number"),
        ('[[quota]]\nnamespace = "a"\nitems = true', "quota 1: items: saw True; expected a whole number"),
        ('[[quota]]\nnamespace = "a"\nbytes = "1 GiB"', "quota 1: bytes: saw '1 GiB'; expected a whole number"),
        ('[[quota]]\nnamespace = "a"\nrequests_per_s = 0', "requests_per_s: saw 0; expected a number above 0"),
        ('[[quota]]\nnamespace = "a"\nrequests_per_s = inf', "requests_per_s: saw inf; expected a number above 0"),
        ('[[quota]]\nnamespace = "a"\nrequests_per_s = nan', "requests_per_s: saw nan; expected a number above 0"),
        ("quota = 3", r"quota: saw int; expected tables, each begun by \[\[quota\]\]"),
        ("[quota", "cannot be read as TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told) as failure:
        read_quotas(written(tmp_path, text))
    assert re.search(r"quotas: .*quotas\.toml", failure.value.message)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"quotas: saw '.*none\.toml', which cannot be read"):
        read_quotas(tmp_path / "none.toml")
