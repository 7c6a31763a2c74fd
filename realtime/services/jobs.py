"""Work that outlives the request that asked for it, on procrastinate in the same PostgreSQL.

`defer` queues a job inside the caller's transaction. `Jobs` runs them, in the worker process and, unless METER_IN_WEB
is off, beside the sockets. A job names what it is about by its id and finds out for itself what is left to do, so one
that runs twice, late, or beside the request it was to replace does no harm.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import procrastinate
import psycopg
import psycopg_pool
import structlog
from procrastinate.exceptions import ConnectorException, UniqueViolation
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager

from ledger.database_url import DatabaseUrl
from ledger.sql import load
from realtime.adapters.logs import in_words
from realtime.services.outages import Outage

log = structlog.get_logger()

_SQL = load("realtime.sql", "jobs.sql")

QUEUE = "callmeter"
CONCURRENCY = 4
POLL_S = 1.0
"""How late a job with a time of its own may start; one without is notified."""
STOP_WITHIN_S = 5.0
CONNECT_WITHIN_S = 3
CLOSE_WITHIN_S = 1.0
AFTER_FAILURE_S = 1.0
STALLED_AFTER_S = 30.0
RESCUE_CRON = "* * * * *"
ATTEMPTS = 8
KEEP_FAILED_HOURS = 30 * 24

Handler = Callable[..., Awaitable[None]]


async def defer(conn: Any, task: str, /, *, in_s: float = 0, **args: Any) -> None:
    """Queue `task` in the transaction on `conn`, to start in `in_s` seconds."""
    await conn.execute(_SQL["defer"], QUEUE, task, [json.dumps(args)], float(in_s))


class _Pool(psycopg_pool.AsyncConnectionPool):
    """One whose end a PostgreSQL that accepts connections and says nothing can't hold up.

    Its beginning is given up soon and tried anew, since the pool's own tries come further and further apart.
    """

    async def open(self, wait: bool = False, timeout: float = CONNECT_WITHIN_S) -> None:
        try:
            await super().open(wait, timeout)
        except psycopg_pool.PoolTimeout:
            # That says how long it waited and not why; one connection more meets the reason.
            url = str(self.conninfo)
            await (await psycopg.AsyncConnection.connect(url, connect_timeout=CONNECT_WITHIN_S)).close()
            raise

    async def close(self, timeout: float = CLOSE_WITHIN_S) -> None:
        await super().close(timeout)


class _Records(JobManager):
    """Notices a job whose end can't be recorded, which the library's worker does not.

    The job would be that worker's for as long as it lives, with none running it, and a periodic one's lock with it.
    """

    def __init__(self, connector: procrastinate.PsycopgConnector, lost: Callable[[Job, BaseException], None]) -> None:
        super().__init__(connector)
        self._lost = lost

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        await self._recorded(job, super().finish_job(job, status, delete_job))

    async def retry_job(self, job: Job, *args: Any, **kwargs: Any) -> None:
        await self._recorded(job, super().retry_job(job, *args, **kwargs))

    async def _recorded(self, job: Job, record: Awaitable[None]) -> None:
        try:
            await record
        except ConnectorException as error:
            self._lost(job, error.__cause__ or error)


@dataclass(frozen=True, slots=True)
class Periodic:
    """A job at each of the times `cron` names (UTC), on one process of all that run jobs."""

    task: str
    cron: str
    run: Callable[[], Awaitable[None]]


class Jobs:
    """The runner. `tasks` are what `defer` names; those that raise are tried again, with growing pauses."""

    def __init__(self, url: str, *, tasks: Mapping[str, Handler], periodic: Sequence[Periodic]) -> None:
        self._connector = procrastinate.PsycopgConnector(
            pool_factory=_Pool,
            conninfo=DatabaseUrl.parse(url).for_psycopg(),
            kwargs={"connect_timeout": CONNECT_WITHIN_S},
            timeout=float(CONNECT_WITHIN_S),
            min_size=1,
            max_size=CONCURRENCY + 2,
        )
        self._app = procrastinate.App(connector=self._connector)
        self._app.job_manager = _Records(self._connector, self._unrecorded)
        self._stopping = asyncio.Event()
        self._leave = asyncio.Event()
        """The worker is to end: for good, or to begin anew."""
        self._outage = Outage(waits="jobs wait for PostgreSQL", again="jobs run again")
        retry = procrastinate.RetryStrategy(max_attempts=ATTEMPTS, exponential_wait=4)
        for name, handler in tasks.items():
            self._app.task(name=name, queue=QUEUE, retry=retry, pass_context=True)(_task(name, handler))
        for one in [*periodic, Periodic("remove_old_jobs", "29 4 * * *", self._remove_old)]:
            self._repeat(one, lock=one.task)
        # Without a lock: this is what frees those of the killed, and its own would have none to free it.
        self._repeat(Periodic("retry_stalled_jobs", RESCUE_CRON, self._retry_stalled), lock=None)

    def _repeat(self, one: Periodic, *, lock: str | None) -> None:
        task = self._app.task(name=one.task, queue=QUEUE, queueing_lock=one.task, lock=lock)(_tick(one))
        self._app.periodic(cron=one.cron)(task)

    async def run(self) -> None:
        """Run jobs until `stop`; a database that is away is waited for, and each outage said once."""
        while not self._stopping.is_set():
            self._leave.clear()
            worker = asyncio.create_task(self._work(), name="jobs")
            leaving = asyncio.create_task(self._leave.wait())
            try:
                await asyncio.wait({worker, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                await _ended(worker)
            error = None if worker.cancelled() else worker.exception()
            if error is not None and not self._stopping.is_set():
                self._outage.met(error.__cause__ or error)  # the job library's own says only that there is one
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), AFTER_FAILURE_S)

    def stop(self) -> None:
        """Finish the jobs in hand, for a few seconds at most, and take no more."""
        self._stopping.set()
        self._leave.set()

    async def _work(self) -> None:
        try:
            async with self._app.open_async():
                self._outage.over()
                await self._app.run_worker_async(
                    queues=[QUEUE],
                    concurrency=CONCURRENCY,
                    fetch_job_polling_interval=POLL_S,
                    shutdown_graceful_timeout=STOP_WITHIN_S,
                    delete_jobs="successful",
                    install_signal_handlers=False,
                )
        finally:
            # One that could not be opened leaves its pool behind, and would pass for open the next time.
            await self._connector.close_async()

    def _unrecorded(self, job: Job, error: BaseException) -> None:
        """A worker that lost hold of a job begins anew, so that the job is seen to be nobody's and is run again."""
        if isinstance(error, psycopg.OperationalError):
            self._outage.met(error)
            self._leave.set()
        else:
            log.warning("the end of a job was not recorded", job=job.task_name, id=job.id, error=in_words(error))

    async def _retry_stalled(self) -> None:
        """Jobs whose worker was killed go back into the queue."""
        manager = self._app.job_manager
        for job in await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_AFTER_S):
            assert job.id is not None
            try:
                await manager.retry_job_by_id_async(job.id, retry_at=datetime.now(UTC))
            except UniqueViolation:
                # A periodic one's next time is queued already, and waits for this one's lock.
                await manager.finish_job_by_id_async(job.id, Status.ABORTED, delete_job=True)

    async def _remove_old(self) -> None:
        """Jobs that failed for the last time are kept for a while, for whoever wants to know why."""
        await self._app.job_manager.delete_old_jobs(
            nb_hours=KEEP_FAILED_HOURS, queue=QUEUE, include_failed=True, include_cancelled=True, include_aborted=True
        )


async def _ended(worker: asyncio.Task[None]) -> None:
    """Cancel it, and again where it goes on: a cancellation that comes together with what was waited for can be lost.

    `asyncio.wait_for` loses it before Python 3.12, and the database's driver waits with that.
    """
    while not worker.done():
        worker.cancel()
        try:
            await asyncio.wait({worker}, timeout=STOP_WITHIN_S + CLOSE_WITHIN_S)
        except asyncio.CancelledError:
            worker.cancel()
            raise


def _task(name: str, handler: Handler) -> Handler:
    async def run(context: procrastinate.JobContext, /, **args: Any) -> None:
        try:
            await handler(**args)
        except Exception as error:
            facts = {"job": name, "attempts": context.job.attempts + 1, "error": in_words(error)} | args
            if context.job.attempts < ATTEMPTS:
                log.warning("a job failed and is tried again", **facts)
            else:
                log.error("a job failed for the last time: see JobsFailed in the runbook", id=context.job.id, **facts)
            raise

    return run


def _tick(one: Periodic) -> Handler:
    async def run(timestamp: int) -> None:
        del timestamp
        try:
            await one.run()
        except Exception as error:
            log.warning("a periodic job failed; its next time will come", job=one.task, error=in_words(error))
            raise

    return run
