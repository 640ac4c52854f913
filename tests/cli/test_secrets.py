"""Passwords of the store's database, which no command repeats, however they are spelled."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from attractor_server.cli.main import main

ONE, TWO = "Gqx9", "Zt7k"
"""Parts of a password, with what it has between them"""
HOST = "127.0.0.1:1/db"
SPELLINGS = {
    "right": f"postgresql://user:{ONE}{TWO}@{HOST}",
    "right, in the query": f"postgresql://user@{HOST}?password={ONE}{TWO}",
    "percent": f"postgresql://user:{ONE}%zz{TWO}@{HOST}",
    "percent at the end": f"postgresql://user:{ONE}{TWO}%@{HOST}",
    "space": f"postgresql://user:{ONE} {TWO}@{HOST}",
    "slash": f"postgresql://user:{ONE}/{TWO}@{HOST}",
    "slash after digits": f"postgresql://127.0.0.1:1/{ONE}{TWO}@{HOST}",
    "at": f"postgresql://user:{ONE}@{TWO}@{HOST}",
    "bracket": f"postgresql://user:{ONE}[{TWO}@{HOST}",
    "question mark": f"postgresql://user:{ONE}?{TWO}@{HOST}",
    "slash and question mark": f"postgresql://user:{ONE}/{TWO}?{TWO}={ONE}@{HOST}",
    "colon": f"postgresql://user:{ONE}:{TWO}@{HOST}",
    "hash": f"postgresql://user:{ONE}#{TWO}@{HOST}",
    "no host": f"postgresql://user:{ONE}{TWO}",
    "open bracket of the host": f"postgresql://user:{ONE}{TWO}@[::1/db",
    "no slashes": f"postgresql:user:{ONE}{TWO}@{HOST}",
    "no scheme": f"user:{ONE}{TWO}@{HOST}",
    "another scheme": f"postgresql+psycopg://user:{ONE}{TWO}@{HOST}",
    "capitals": f"POSTGRESQL://user:{ONE}{TWO}@{HOST}",
    "words": f"host=127.0.0.1 user=user password={ONE}{TWO}",
    "twice in the query": f"postgresql://user@{HOST}?password={ONE}?password={TWO}",
    "twice": f"postgresql://user@{HOST}?password={ONE}&password={TWO}",
    "misspelled": f"postgresql://user@{HOST}?passwort={ONE}{TWO}",
    "equals": f"postgresql://user@{HOST}?password={ONE}={TWO}",
    "NUL": f"postgresql://user:{ONE}\0{TWO}@{HOST}",
    "surrogate": f"postgresql://user:{ONE}\ud800{TWO}@{HOST}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("command", ["serve", "verify", "backup", "doctor"])
def test_no_part_of_a_password_is_repeated(command: str, spelling: str, tmp_path: Path) -> None:
    copy = [str(tmp_path / "copy")] if command == "backup" else []
    result = CliRunner().invoke(main, [command, *copy, "--backend-store-uri", SPELLINGS[spelling]])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert "store" in result.output or "PostgreSQL" in result.output
    assert ONE not in result.output
    assert TWO not in result.output


@pytest.mark.parametrize("given", [f'"{SPELLINGS["percent"]}"', f'["{SPELLINGS["right"]}"]'])
def test_a_password_in_the_file_of_settings_is_not_repeated(given: str, tmp_path: Path) -> None:
    file = tmp_path / "attractor.toml"
    file.write_text(f"backend_store_uri = {given}\n")
    result = CliRunner().invoke(main, ["verify", "--config", str(file)])
    assert result.exit_code == 2
    assert "backend_store_uri: " in result.output
    assert ONE not in result.output
    assert TWO not in result.output
