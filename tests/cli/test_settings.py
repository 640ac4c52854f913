"""Settings and commands, as far as no server has to start for them."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attractor_server.cli.main import main
from attractor_server.config import Settings, load_settings
from attractor_server.errors import SettingsError
from attractor_server.shard import spec
from attractor_server.shard.spec import threads_for


def invoked(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env=environment)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "attractor.toml"
    file.write_text("shards = 2\nport = 7002\ngrace_s = 2.5\n")
    monkeypatch.setenv("ATTRACTOR_SHARDS", "3")
    monkeypatch.setenv("ATTRACTOR_PORT", "7003")
    settings = load_settings({"shards": "4"}, file)
    assert (settings.shards, settings.port, settings.grace_s, settings.device) == (4, 7003, 2.5, "cpu")


def test_help_names_every_setting_its_variable_and_its_default() -> None:
    text = " ".join(invoked("serve", "--help").output.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert f"ATTRACTOR_{name.upper()}" in text
        assert field.description


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"shards": "-1"}, "shards: saw '-1'"),
        ({"port": "70000"}, "port: saw '70000'"),
        ({"device": "tpu"}, "device: saw 'tpu'"),
        ({"bank_memory_mib": "much"}, "bank_memory_mib: saw 'much'"),
        ({"tls_key": "key.pem"}, "tls_key: saw 'key.pem'; expected --tls-cert and --tls-key, both or none"),
        ({"tls_cert": "certificate.pem"}, "tls_key: saw None; expected --tls-cert and --tls-key, both or none"),
        ({"tls_optional": "yes"}, "tls_optional: saw 'yes'; of use with TLS only; expected --tls-cert as well"),
        ({"colour": "red"}, "colour: there is no such setting"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named_with_what_was_seen(flags: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match="^" + message):
        load_settings(flags)


def test_a_file_with_an_unknown_setting_or_no_toml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "attractor.toml"
    file.write_text("colour = 'red'\n")
    with pytest.raises(SettingsError, match="colour: there is no such setting"):
        load_settings({}, file)
    file.write_text("shards = \n")
    with pytest.raises(SettingsError, match="cannot be read as TOML"):
        load_settings({}, file)
    with pytest.raises(SettingsError, match="which is no file"):
        load_settings({}, tmp_path / "missing.toml")


def test_what_is_wrong_is_told_in_one_line_and_the_exit_status_is_2(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"not a model")
    for arguments, words in (
        (("serve", "--shards", "none"), "shards: saw 'none'"),
        (("serve", "--models", str(tmp_path)), "broken.safetensors cannot be read"),
        (("serve", "--models", str(tmp_path / "missing")), "which is no folder"),
        (("serve", "--shards", "0", "--durable", "no"), "shards: saw 0, but memories"),
        (("serve", "--device", "cuda"), "device: saw 'cuda'"),
        (("serve", "--config", str(tmp_path / "missing.toml")), "which is no file"),
        (("train", "missing.toml"), "recipe: saw 'missing.toml'"),
        (("demo", "--image", str(tmp_path / "broken.safetensors")), "cannot be read as a picture"),
        (("demo", "picture.png"), "expected --image before"),
    ):
        result = invoked(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("attractor: ")
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("asked", "shards", "threads"), [(0, 2, 3), (0, 0, 6), (0, 8, 1), (5, 2, 5)])
def test_cores_are_shared_out_on_systems_without_processor_affinity(
    asked: int, shards: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(spec, "cpu_limit", lambda: None)
    assert threads_for(asked, shards) == threads
