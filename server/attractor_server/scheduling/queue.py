"""Jobs that wait for the engine: a queue for each memory, and a line of ready queues for each program and namespace.

Taking a batch costs what is taken from here, and not what waits.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import count
from typing import TypeAlias

from attractor_server.errors import Expired
from attractor_server.memories.memory import MemoryRecord
from attractor_server.memories.names import NAMES_LIMIT, namespace_of
from attractor_server.scheduling.fairness import (
    CREDIT_LIMIT,
    LEAD_LIMIT,
    Account,
    Crowds,
    Ranking,
)
from attractor_server.scheduling.jobs import Job, Operation, Origin

TURN_LIMIT = 64
"""Patterns of one memory that are taken before another one's turn, so that many queries of one share its page."""

FILLED_PART = 4
"""Once a namespace got all that it asked for, second turns fill a batch to this part only: its answers wait for them"""

ALONE = (Operation.ERASE, Operation.DELETE, Operation.TASK, Operation.EVICT)
"""Operations of which a batch holds one for each memory"""

Program: TypeAlias = tuple[object, ...]


class Tenant:
    """A namespace with jobs that wait."""

    def __init__(self, name: str, account: Account, origin: Origin | None) -> None:
        self.name = name
        self.origin = origin
        """Origin of the job that came first"""
        self.account = account
        self.weight = 0
        """Patterns that wait"""
        self.queues = 0
        self.lines: dict[Program, deque[MemoryQueue]] = {}
        """Ready queues by the program of their next job"""
        self.ready: OrderedDict[MemoryQueue, Program] = OrderedDict()
        """Programs of these queues, the one that has been ready for longest first"""


class MemoryQueue:
    """Waiting jobs of one memory, the oldest first. It is ready: nothing of its memory is being computed."""

    def __init__(self, memory: MemoryRecord, tenant: Tenant) -> None:
        self.memory = memory
        self.tenant = tenant
        self.jobs: deque[Job] = deque()
        self.weight = 0
        self.begun: list[Job] = []
        """Jobs that are done in parts at present, before all others of the memory"""
        self._part = 0
        """Cost of the next part, on the account of the namespace"""

    @property
    def waits(self) -> bool:
        """Whether something is to be done."""
        return bool(self.jobs or self.begun)

    @property
    def program(self) -> Program:
        """Program of the next job; a job that is done in parts shares a batch with nothing."""
        return ("in parts", self.memory) if self.begun else self.jobs[0].program

    def put(self, job: Job) -> None:
        """Take a job, behind all others of the memory."""
        self.jobs.append(job)
        self.weight += job.weight

    def take(self, program: Program, room: float, *, first: bool, now_s: float) -> tuple[list[Job], int]:
        """Take its oldest jobs of that program, up to the turn's end; the first one of a batch whatever its cost.

        With them the sum of their costs. What costs more than there is room for is done in parts; those behind it that
        read come along, up to a turn, since they share the search of the pages.
        """
        if self.begun:
            return self._continue_parts(now_s)
        taken: list[Job] = []
        weight = cost = 0
        while (job := self._peek(now_s)) is not None and job.program == program:
            job_cost = job.cost
            if taken:
                shares = cost > room and not job.operation.writes and len(self.memory.pages) > 1
                if weight + job.weight > TURN_LIMIT or (cost + job_cost > room and not shares):
                    break
            elif job_cost > room and not first:
                break
            weight += job.weight
            cost += job_cost
            job.begin()
            taken.append(self._pop())
            if job.operation in ALONE:
                break
        # What does not fit, or never does in one batch, is begun: its parts come before all else of the memory.
        if cost > room or (taken and taken[0].in_parts):
            self.begun, self._part = taken, min(cost, math.ceil(room))
            for job in taken:
                job.begin_part(cut=cost > room)
            return list(taken), self._part
        return taken, cost

    def _continue_parts(self, now_s: float) -> tuple[list[Job], int]:
        """Return the begun jobs that are not answered, and what the next part of them costs."""
        for job in self.begun:
            if job.deadline_s is not None and job.deadline_s <= now_s and not job.operation.writes:
                job.fail(Expired("the deadline passed while the request was computed, part by part"))
            job.begin_part(cut=job.cut)
        self.begun = [job for job in self.begun if not job.future.done()]
        return list(self.begun), self._part if self.begun else 0

    def _peek(self, now_s: float) -> Job | None:
        """Return the oldest job that somebody waits for; those before it leave."""
        while self.jobs:
            job = self.jobs[0]
            if job.deadline_s is not None and job.deadline_s <= now_s:
                job.fail(Expired("the deadline passed while the request was waiting; it was not computed"))
            if not job.future.done():
                return job
            self._pop()
        return None

    def _pop(self) -> Job:
        job = self.jobs.popleft()
        self.weight -= job.weight
        return job


class Queue:
    """Jobs of all namespaces. Within a memory first in, first out; across namespaces the one served least first."""

    def __init__(self) -> None:
        self.weight = 0
        """Patterns that wait"""
        self._queues: dict[MemoryRecord, MemoryQueue] = {}
        self._tenants: dict[str, Tenant] = {}
        self._lines: dict[Program, Ranking[Tenant]] = {}
        """By program, those with queues that are ready for it"""
        self._ranking: Ranking[Tenant] = Ranking()
        """Ranking of all namespaces; one that is gone leaves when it comes first"""
        self._least = 0
        """The account of whoever was served least when the last batch was taken"""
        self._gone: OrderedDict[str, int] = OrderedDict()
        """Service of namespaces that were gone while others waited, in patterns"""
        self._numbers = count()
        self._crowds = Crowds()
        self.part_cost = TURN_LIMIT
        """On the account of a namespace for a part of a long request"""

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, memory: MemoryRecord) -> bool:
        return memory in self._queues

    @property
    def namespaces(self) -> int:
        """Namespaces whose jobs wait."""
        return len(self._tenants)

    def list_jobs(self) -> list[Job]:
        """Return all jobs that wait, those of one memory in their order."""
        return [job for queue in self._queues.values() for job in queue.jobs]

    def weight_of(self, namespace: str) -> int:
        """Return the number of patterns of that namespace that wait."""
        return tenant.weight if (tenant := self._tenants.get(namespace)) else 0

    def put(self, job: Job) -> None:
        """Take a job, behind all others of its memory."""
        if (queue := self._queues.get(job.memory)) is None:
            queue = self._queues[job.memory] = MemoryQueue(
                job.memory, self._get_tenant(namespace_of(job.memory.name), job.origin)
            )
            queue.tenant.queues += 1
            queue.put(job)
            self._enter(queue)
        else:
            queue.put(job)
        queue.tenant.weight += job.weight
        self.weight += job.weight

    def take(self, limit_of: Callable[[Program], int], now_s: float) -> list[Job]:
        """Take the next batch: of the program that the namespace served least has waited with for longest.

        Empty only where nothing waits that somebody wants.
        """
        batch: list[Job] = []
        while not batch and self:
            while not (tenant := self._ranking.first()).queues:
                self._ranking.drop_first()
            self._least = tenant.account.served
            program = next(iter(tenant.ready.values()))
            batch = self._fill(program, limit_of(program), now_s)
        return batch

    def _fill(self, program: Program, limit: int, now_s: float) -> list[Job]:
        """Take jobs of that program from one namespace after another, the one served least first, up to the limit."""
        batch: list[Job] = []
        room = limit
        closed: list[MemoryQueue] = []
        served: set[Tenant] = set()
        satisfied = False
        while program in self._lines and (not batch or room > 0):
            # Whose turn it is: once a namespace got all that it asked for, and enough is taken, nobody gets a second.
            tenant = self._lines[program].first()
            if satisfied and tenant in served and FILLED_PART * (limit - room) >= limit:
                break
            queue = tenant.lines[program][0]
            # The oldest jobs of its first memory, as far as there is room.
            taken, cost = self._serve(queue, program, room, first=not batch, now_s=now_s)
            if not taken and queue.waits and queue.program == program:
                break  # it has no room in this batch, and keeps its place
            batch += taken
            room -= cost
            # The memory lines up again for its next job; with one that needs the batch's end, only after the batch.
            self._leave(queue, program)
            if taken and (queue.begun or (taken[-1].operation in ALONE and queue.jobs)):
                closed.append(queue)
            else:
                self._enter(queue)
            served.add(tenant)
            satisfied = satisfied or program not in tenant.lines
        for queue in closed:
            self._enter(queue)
        return batch

    def _serve(
        self, queue: MemoryQueue, program: Program, room: int, *, first: bool, now_s: float
    ) -> tuple[list[Job], int]:
        """Take the queue's jobs for the batch, and charge their cost to its namespace's account."""
        before = queue.weight
        taken, cost = queue.take(program, room, first=first, now_s=now_s)
        left = before - queue.weight
        self.weight -= left
        queue.tenant.weight -= left
        charged = self.part_cost if taken and (taken[0].cut or taken[0].parts > 1) else cost
        queue.tenant.account.charge(charged * self._crowds.count_sharers(queue.tenant.origin), least=self._least)
        return taken, cost

    def _get_tenant(self, name: str, origin: Origin | None) -> Tenant:
        """Return the namespace; one that was idle keeps its account, and is hardly owed anything for that time.

        One that is new begins behind the others of its session, as if each of them had been served before.
        """
        if (tenant := self._tenants.get(name)) is None:
            others = self._crowds.enter(origin)
            new = self._least + min(others * CREDIT_LIMIT, LEAD_LIMIT)
            served = max(self._gone.pop(name, new), self._least - CREDIT_LIMIT)
            tenant = self._tenants[name] = Tenant(name, Account(next(self._numbers), served), origin)
            self._ranking.add(tenant)
        return tenant

    def _drop(self, tenant: Tenant) -> None:
        """Forget a namespace of which nothing waits, and all accounts once nobody waits."""
        del self._tenants[tenant.name]
        self._crowds.leave(tenant.origin)
        if not self._tenants:
            self._gone.clear()
            return
        self._gone[tenant.name] = tenant.account.served
        if len(self._gone) > NAMES_LIMIT:
            self._gone.popitem(last=False)

    def _enter(self, queue: MemoryQueue) -> None:
        """Line the queue up for the program of its next job; one without a job is dropped."""
        tenant = queue.tenant
        if not queue.waits:
            del self._queues[queue.memory]
            tenant.queues -= 1
            if not tenant.queues:
                self._drop(tenant)
            return
        program = queue.program
        if program not in tenant.lines:
            tenant.lines[program] = deque()
            self._lines.setdefault(program, Ranking()).add(tenant)
        tenant.lines[program].append(queue)
        tenant.ready[queue] = program

    def _leave(self, queue: MemoryQueue, program: Program) -> None:
        """Take out the first queue of the first namespace in that program's line."""
        tenant = queue.tenant
        tenant.lines[program].popleft()
        del tenant.ready[queue]
        if not tenant.lines[program]:
            del tenant.lines[program]
            self._lines[program].drop_first()
            if not self._lines[program]:
                del self._lines[program]
