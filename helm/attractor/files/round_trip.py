"""Store, recall and delete, at the address that is the argument; files and variables say what else a client needs."""

import os
import sys
import uuid
from pathlib import Path

import numpy as np

import attractor

TLS_FOLDER, TOKEN_FILE = (Path(os.environ.get(name, "")) for name in ("TEST_TLS", "TEST_TOKEN_FILE"))


def read_tls() -> attractor.TLS | None:
    """Return the files of a client, as far as there are any."""
    if "TEST_TLS" not in os.environ:
        return None
    shown = {"certificate": TLS_FOLDER / "tls.crt", "key": TLS_FOLDER / "tls.key"}
    return attractor.TLS(
        ca=TLS_FOLDER / "ca.crt" if (TLS_FOLDER / "ca.crt").exists() else None,
        server_name=os.environ.get("TEST_SERVER_NAME", ""),
        **({} if os.environ.get("TEST_CERTIFICATE") != "yes" else shown),
    )


def run(address: str, token: str | None) -> str:
    """Return what was done. It leaves nothing behind; what an accident leaves goes by itself."""
    signs = np.sign(np.random.default_rng(0).normal(size=(4, 128))).astype(np.float32)
    cues = np.where(np.arange(128) < 16, -signs, signs)
    name = f"helm-test/{uuid.uuid4().hex}"
    with attractor.Client(address, timeout_s=60, tls=read_tls(), token=token, plaintext_token=True) as client:
        memory = client.create_memory(name, model="binary-128", ttl_s=600)
        memory.store(signs)
        recalled = memory.query(cues).pattern
        client.delete_memory(name)
    assert (np.sign(recalled) == signs).mean() > 0.95, recalled
    return f"stored, recalled and deleted {name}"


def main(address: str) -> None:
    """Say what was done; a server with identities refuses who has no token, as it should."""
    token = TOKEN_FILE.read_text().strip() if "TEST_TOKEN_FILE" in os.environ else None
    try:
        said = run(address, token)
    except (attractor.Unauthenticated, attractor.NotAllowed) as error:
        if token is not None or os.environ.get("TEST_IDENTITIES") != "yes":
            raise
        said = f"refused, as a caller without a token should be: {error}; tests.existingSecret names one"
    sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main(sys.argv[1])
