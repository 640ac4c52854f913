"""The file of identities: what it says, what is refused, and who may change it."""

from pathlib import Path

import pytest

from attractor_server.errors import SettingsError
from attractor_server.identity.grants import Grant, Grants, Role, parse_grant
from attractor_server.identity.identity_file import read_identities
from attractor_server.identity.principal import Principal, pack_principal, unpack_principal
from attractor_server.identity.tokens import draw_token, hash_token

DIGEST = hash_token("att_x").hex()
TOKEN = f'[[token]]\nname = "ada"\nsha256 = "{DIGEST}"\ngrants = ["users/ada/*:write"]\n'


def test_tokens_certificates_and_the_anonymous_are_read(tmp_path: Path) -> None:
    file = tmp_path / "identities.toml"
    file.write_text(
        TOKEN + 'expires = 2027-01-01T00:00:00Z\n[[certificate]]\nname = "a.example.org"\ngrants = ["*:read"]\n'
        '[anonymous]\ngrants = ["open/*:read"]\n'
    )
    file.chmod(0o600)
    table = read_identities(file)
    ada = table.tokens[hash_token("att_x")]
    assert (ada.source, ada.name, ada.expires_s) == ("token", "ada", 1798761600.0)
    assert table.certificates["a.example.org"].grants.everywhere is Role.READ
    assert table.anonymous is not None
    assert table.anonymous.grants.role_in("open/a") is Role.READ


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[token]", "cannot be read as TOML"),
        ("[tokens]", r"saw \['tokens'\]; expected token, certificate"),
        ('[[token]]\nname = "a"', "token 1: sha256 is missing"),
        (TOKEN.replace(DIGEST, "att_my-secret"), "token 1.sha256: saw 13 characters; expected the 64 hexadecimal"),
        (TOKEN + TOKEN, "token 2.sha256: saw the digest of another entry"),
        (TOKEN.replace(":write", ":owner"), r"token 1.grants\[0\]: saw 'users/ada/\*:owner'; expected PATTERN:ROLE"),
        (TOKEN.replace('["users/ada/*:write"]', '"*:read"'), "token 1.grants: saw .* expected a list of grants"),
        (TOKEN.replace("ada", "a\\nb", 1), "token 1.name: saw"),
        (TOKEN + "expires = 5", "token 1.expires: saw 5; expected a time"),
        ("[anonymous]\nrole = 1", "anonymous: saw"),
        ("token = 3", "token: saw int; expected tables"),
    ],
)
def test_what_cannot_be_meant_is_named_without_secrets(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "identities.toml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(SettingsError, match=said) as caught:
        read_identities(file)
    assert "my-secret" not in caught.value.message


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "identities.toml"
    file.write_text(TOKEN)
    file.chmod(mode)
    with pytest.raises(SettingsError, match=f"mode {mode:04o}, which lets others change it"):
        read_identities(file)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"identities: saw .*cannot be read: No such file"):
        read_identities(tmp_path / "none.toml")


def test_of_several_grants_the_highest_role_counts() -> None:
    texts = ["*:read", "users/ada/*:write", "users/ada/diary:read", "lone:admin", "users/*:read"]
    grants = Grants(parse_grant(text, where="grant") for text in texts)
    roles = {
        "any/thing": Role.READ,
        "users/ada/x": Role.WRITE,
        "users/ada/x/y": Role.WRITE,
        "users/ada/diary": Role.WRITE,
        "users/adam/x": Role.READ,
        "users/ada": Role.READ,
        "lone": Role.ADMIN,
        "lone/x": Role.READ,
    }
    assert {name: grants.role_in(name) for name in roles} == roles
    only = Grants([Grant("users/ada/*", Role.WRITE), Grant("/*", Role.READ)])
    assert [only.role_in(name) for name in ("users/ada", "ada", "users/ada/x", "users/x")] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    "text",
    ["", "a", "a:", ":read", "a:READ", "a*:read", "users/*/x:read", "//*:read", "a/:read", "*/*:read", "a b:read"],
)
def test_a_grant_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="expected PATTERN:ROLE"):
        parse_grant(text, where="grant")


def test_no_two_principals_share_numbers_and_an_anonymous_client_keeps_its_own() -> None:
    none = Grants()
    ada, bob = Principal("token", "ada", none), Principal("token", "bob", none)
    anonymous = Principal("anonymous", "anonymous", none)
    scoped = {one.scope("c") for one in (ada, bob, Principal("jwt", "ada", none), anonymous)}
    assert len(scoped) == 4
    assert anonymous.scope("c") == "c"
    assert anonymous.scope(ada.scope("c")) != ada.scope("c")
    assert unpack_principal(pack_principal(ada)) == ada


def test_tokens_are_drawn_at_random() -> None:
    drawn = {draw_token() for _ in range(100)}
    assert len(drawn) == 100
    assert min(map(len, drawn)) >= 40
