"""The command `attractor-mcp`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

import attractor
from attractor_agents.encoders import Encoder
from attractor_agents.mcp.server import make_server
from attractor_agents.memory import AgentMemory
from attractor_agents.minilm import MiniLM
from attractor_agents.static import Static

ENV_PREFIX = "ATTRACTOR_"
TIMEOUT_S = 10.0
"""Of each request, so that an agent is not held up"""
ENCODERS: dict[str, Callable[[], Encoder]] = {"minilm": MiniLM, "static": Static}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; print what is wrong with them, and exit with 2."""
    parser = argparse.ArgumentParser(
        "attractor-mcp",
        description="Serve a memory to models by the Model Context Protocol. A token of a server with identities comes "
        f"in the variable {ENV_PREFIX}TOKEN, or in the file that {ENV_PREFIX}TOKEN_FILE names.",
    )
    add = parser.add_argument
    add("--server", default="127.0.0.1:7171", metavar="HOST:PORT", help="the Attractor server (default: %(default)s)")
    add("--space", required=True, help="name of the memory, as users/ada; models reach it and what is below it alone")
    add("--encoder", choices=ENCODERS, default="minilm", help="what makes vectors of texts (default: %(default)s)")
    add("--transport", choices=("stdio", "http"), default="stdio", help="how models connect (default: %(default)s)")
    add("--host", default="127.0.0.1", help="for http: an address of this machine alone (default: %(default)s)")
    add("--port", type=int, default=7180, help="for http: where to listen (default: %(default)s)")
    add("--tls", action="store_true", help="speak TLS; implied by the options below")
    add("--tls-ca", type=Path, metavar="FILE", help="PEM file with the certificates that the server's is verified by")
    add("--tls-cert", type=Path, metavar="FILE", help="PEM file with the certificate to show")
    add("--tls-key", type=Path, metavar="FILE", help="PEM file with the key of that certificate")
    add("--tls-server-name", default="", metavar="NAME", help="name in the server's certificate")
    options = parser.parse_args(words)
    if options.transport == "http" and not _is_loopback(options.host):
        parser.error(
            f"--host: saw {options.host}; expected an address of this machine, as 127.0.0.1: callers are not asked who "
            "they are, and would all have the space"
        )
    return options


def main() -> None:
    """Serve until the input ends, or forever."""
    options = parse()
    encoder = ENCODERS[options.encoder]()
    try:
        server = make_server(lambda: _connect(options, encoder), encoder)
        if options.transport == "stdio":
            server.run("stdio")
        else:
            server.run("streamable-http", host=options.host, port=options.port, stateless_http=True)
    except* (attractor.AttractorError, OSError) as errors:
        sys.exit(f"attractor-mcp: {_first(errors)}")
    except* KeyboardInterrupt:
        sys.exit(130)


def _connect(options: argparse.Namespace, encoder: Encoder) -> AgentMemory:
    name, ca, certificate, key = options.tls_server_name, options.tls_ca, options.tls_cert, options.tls_key
    tls = attractor.TLS(ca=ca, certificate=certificate, key=key, server_name=name)
    return AgentMemory.connect(
        options.server,
        space=options.space,
        encoder=encoder,
        timeout_s=TIMEOUT_S,
        tls=tls if options.tls or tls != attractor.TLS() else None,
        token=_read_token(),
        plaintext_token=os.environ.get(f"{ENV_PREFIX}PLAINTEXT_TOKEN", "").lower() in ("1", "true", "yes", "on"),
    )


def _read_token() -> str | None:
    if token := os.environ.get(f"{ENV_PREFIX}TOKEN"):
        return token
    path = os.environ.get(f"{ENV_PREFIX}TOKEN_FILE")
    return None if path is None else Path(path).read_text("utf-8").strip()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
