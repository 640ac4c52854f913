"""Queries a second of a shard with TLS and tokens, beside one with neither, in turns."""

import statistics
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import anyio
import trustme
from _loads import run_closed_loop
from _served import connect_queries
from _shards import Shards
from _tenants import Vectors

import attractor
from attractor_server.identity.grants import parse_grants
from attractor_server.identity.identity_file import format_token
from attractor_server.identity.tokens import draw_token, hash_token
from attractor_server.shard.spec import ShardSpec, TLSFiles

NAME = "bench.attractor.test"


def compare_secured(
    spec: ShardSpec, cues: Vectors, *, callers: int, rounds: int, seconds: float
) -> tuple[float, float]:
    """Return queries a second of a shard without TLS and identities, and the median ratio to it of one with both."""
    with tempfile.TemporaryDirectory() as folder:
        tls, trusted, token, identities = _write_files(Path(folder))
        secured = replace(spec, tls=tls, identities=identities)
        with Shards(spec, 1) as plain, Shards(secured, 1) as safe:

            async def compare() -> tuple[float, float]:
                rates, ratios = list[float](), list[float]()
                async with AsyncExitStack() as stack:
                    openly = await connect_queries(stack, plain.addresses[0], cues, spread=True)
                    secretly = await connect_queries(
                        stack, safe.addresses[0], cues, spread=True, tls=trusted, token=token
                    )
                    for at in range(rounds + 1):
                        pair = [openly, secretly] if at % 2 else [secretly, openly]
                        found = [await run_closed_loop(one, callers=callers, seconds=seconds) for one in pair]
                        before, now = found if at % 2 else found[::-1]
                        if at:  # the first round warms
                            rates.append(before)
                            ratios.append(now / before)
                return statistics.median(rates), statistics.median(ratios)

            return anyio.run(compare)


def _write_files(folder: Path) -> tuple[TLSFiles, attractor.TLS, str, Path]:
    """Return files of a shard, what a client believes, and a token of the file of identities."""
    authority = trustme.CA()
    issued = authority.issue_cert(NAME)
    ca, certificate, key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    authority.cert_pem.write_to_path(ca)
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    token, identities = draw_token(), folder / "identities.toml"
    grants = parse_grants(["bench/*:write"], where="grants")
    identities.touch(0o600)
    identities.write_text(format_token("bench", hash_token(token), grants, None))
    files = TLSFiles(certificate=certificate, key=key, ca=ca)
    return files, attractor.TLS(ca=ca, server_name=NAME), token, identities
