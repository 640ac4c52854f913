"""What `import attractor` offers, and what it costs."""

import inspect
import pickle
import subprocess
import sys

import pytest

import attractor

HEAVY = ("torch", "ray", "attractor_server", "pydantic", "scipy", "sqlite3")


def test_all_is_exactly_the_public_names() -> None:
    public = {name for name in vars(attractor) if not name.startswith("_")}
    assert set(attractor.__all__) == public
    assert list(attractor.__all__) == sorted(attractor.__all__, key=lambda name: (not name.isupper(), name))


def test_every_public_name_says_what_it_is() -> None:
    classes = [getattr(attractor, name) for name in attractor.__all__ if inspect.isclass(getattr(attractor, name))]
    undocumented = [kind.__name__ for kind in classes if not inspect.getdoc(kind)]
    assert undocumented == []


def test_public_classes_are_at_home_where_users_find_them() -> None:
    for name in attractor.__all__:
        if inspect.isclass(kind := getattr(attractor, name)):
            assert kind.__module__ == "attractor"
            assert pickle.loads(pickle.dumps(kind)) is kind
    for value in (attractor.StoreResult(1, 2), attractor.connect("localhost")._settings.retry):
        assert pickle.loads(pickle.dumps(value)) == value
    error = pickle.loads(pickle.dumps(attractor.Busy("full", route="elsewhere")))
    assert (type(error), str(error), error.route) == (attractor.Busy, "full", "elsewhere")
    assert repr(pickle.loads(pickle.dumps(attractor.Client("localhost")))) == repr(attractor.Client("localhost"))


@pytest.mark.parametrize(
    ("old", "new"), [("SyncMemory", attractor.Memory), ("SyncMemoryStream", attractor.MemoryStream)]
)
def test_an_old_name_is_an_alias_that_warns(old: str, new: type) -> None:
    with pytest.warns(DeprecationWarning, match=f"attractor.{old} is attractor.{new.__name__} now") as warned:
        assert getattr(attractor, old) is new
    assert warned[0].filename == __file__
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        attractor.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_every_error_has_one_root() -> None:
    errors = [
        value
        for value in vars(attractor).values()
        if inspect.isclass(value) and issubclass(value, Exception) and value is not attractor.AttractorError
    ]
    assert errors
    assert all(issubclass(error, attractor.AttractorError) for error in errors)


def test_importing_the_client_loads_nothing_heavy() -> None:
    code = f"import attractor, sys; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
