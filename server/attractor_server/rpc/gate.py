"""The gate before every call: who calls, and whether the method has a rule."""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import grpc
from grpc import aio

from attractor_server.errors import NotAllowed, ServerError
from attractor_server.identity.access import OPEN, Access
from attractor_server.identity.audit import AuditLog, CallAudit
from attractor_server.identity.identities import Identities
from attractor_server.rpc.context import Context, read_metadata
from attractor_server.rpc.errors import fail
from attractor_server.rpc.fellows import Fellows
from attractor_server.rpc.rules import RULES, Rule

AUTHORIZATION_KEY = "authorization"

_SAN_KEY = "x509_subject_alternative_name"
_CN_KEY = "x509_common_name"


class Gate:
    """Admits callers. Where no identities are named everybody passes."""

    def __init__(self, identities: Identities | None, fellows: Fellows, audit: AuditLog | None = None) -> None:
        self._identities = identities
        self._fellows = fellows
        self._audit = audit

    @property
    def open(self) -> bool:
        """Whether everybody may do everything."""
        return self._identities is None

    async def admit(self, context: Context, rule: Rule | None, method: str) -> Access:
        """Return what the caller may do.

        Raises:
            Unauthenticated: it is nobody that the server knows.
            NotAllowed: the method has no rule.
        """
        if self._audit is None:
            return await self._identify(context, rule, method)
        forwarded = await self._fellows.is_proven(context)
        address, _ = await self._fellows.read_origin(context)
        try:
            access = await self._identify(context, rule, method)
        except ServerError as error:
            CallAudit(self._audit, method, "nobody", address, counted=False).refuse("", error.reason)
            raise
        if forwarded and not (rule is not None and rule.streamed):
            return access  # the shard that the caller reached writes it down; of a session only the owner knows all
        access = Access(None) if access is OPEN else access
        who = "" if access.principal is None else str(access.principal)
        access.audit = CallAudit(
            self._audit,
            method,
            who,
            address,
            counted=rule is not None and not rule.logged,
            streamed=rule is not None and rule.streamed,
        )
        return access

    async def _identify(self, context: Context, rule: Rule | None, method: str) -> Access:
        if self._identities is None:
            return OPEN
        if rule is None:
            raise NotAllowed(f"{method} has no rule that says who may call it, and is served to nobody")
        if (told := await self._fellows.read_principal(context)) is not None:
            return Access(told)
        authorization = read_metadata(context, AUTHORIZATION_KEY)
        recheck = partial(self._identities.authenticate, authorization, _read_certificate(context))
        return Access(await recheck(), self._identities, recheck)

    def guard(self, handler: "grpc.RpcMethodHandler[Any, Any]", method: str) -> "grpc.RpcMethodHandler[Any, Any]":
        """Return the handler of a service that is not ours, behind this gate."""
        rule = RULES.get(method)
        if self.open or (rule is not None and rule.everybody):
            return handler
        serve: Any = _Guarded(self, handler, rule, method).serve
        return grpc.stream_stream_rpc_method_handler(serve, handler.request_deserializer, handler.response_serializer)


class _Guarded:
    """A method of a service that is not ours, for callers who are somebody."""

    def __init__(self, gate: Gate, handler: "grpc.RpcMethodHandler[Any, Any]", rule: Rule | None, method: str) -> None:
        self._gate, self._rule, self._method = gate, rule, method
        self._behaviour: Any = handler.stream_stream

    async def serve(self, messages: AsyncIterator[object], context: Context) -> AsyncIterator[object]:
        """Yield the answers."""
        try:
            await self._gate.admit(context, self._rule, self._method)
            if self._behaviour is None:
                raise NotAllowed(f"{self._method} is no stream, and cannot be guarded")
        except aio.AbortError:
            raise
        except Exception as error:
            fail(context, error)
            return
        async for answer in self._behaviour(messages, context):
            yield answer


def _read_certificate(context: Context) -> Sequence[str]:
    """Return the names in the caller's certificate, alternative names first; none where it showed none."""
    proven = context.auth_context()
    return [name.decode(errors="replace") for key in (_SAN_KEY, _CN_KEY) for name in proven.get(key, ())]
