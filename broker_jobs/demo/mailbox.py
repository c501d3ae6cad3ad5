"""Receives mail: a real SMTP server on loopback, and a mailbox that counts what came in and what was sent away.

The mailbox is the judge of the demo. It knows nothing of jobs but the id each mail names in a header, and counts every
delivery, so that a mail that comes twice is seen.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Collection
from email.parser import BytesHeaderParser
from email.policy import SMTPUTF8
from typing import Any, NamedTuple

from aiosmtpd.smtp import SMTP, Envelope, Session

from broker_jobs.demo.subscribers import domain_of

HOST = "127.0.0.1"
RUN, KIND, JOB, SAYS = "X-Mailroom-Run", "X-Mailroom-Kind", "X-Mailroom-Job", "X-Mailroom-Says"
"""Headers by which a mail says which run of the demo, which kind of mail, of which job, and what counts in it."""


class Mail(NamedTuple):
    """One mail to one address, as the job with this id owes it; `says`: what it must say, where that matters."""

    kind: str
    job_id: str
    address: str
    says: str = ""


class Mailbox:
    """What has arrived. Thread-safe; `wait` wakes at each arrival."""

    def __init__(self, run: str, letters: Collection[str] = ()) -> None:
        """`letters`: the kinds of mail of which it is watched how many come at once."""
        self.run = run
        self._letters = {*letters}
        self._changed = threading.Condition()
        self._delivered: Counter[Mail] = Counter()
        self._by_kind: Counter[str] = Counter()
        self._refused: set[tuple[str, str]] = set()
        self._foreign = 0
        self._coming: dict[int, str] = {}
        self._at_once: dict[str, int] = {}

    def accepts(self, sender: str, address: str) -> bool:
        """Whether to take mail now: what goes to bounce… is sent away once, by each sender, as greylisting does."""
        if not address.lower().startswith("bounce"):
            return True
        with self._changed:
            known = (sender, address) in self._refused
            self._refused.add((sender, address))
            return known

    def put(self, headers: dict[str, str], addresses: list[str]) -> None:
        """Keep a mail. One of another run (a job that outlived its demo) is counted apart."""
        with self._changed:
            if headers.get(RUN) != self.run:
                self._foreign += len(addresses)
            else:
                kind, job_id, says = (headers.get(name, "") for name in (KIND, JOB, SAYS))
                self._delivered.update(Mail(kind, job_id, address, says) for address in addresses)
                self._by_kind[kind] += len(addresses)
            self._changed.notify_all()

    def begin(self, session: int, sender: str, address: str) -> None:
        """Note that a mail is coming in by a session, for `at_once`."""
        with self._changed:
            if sender.partition("@")[0] in self._letters:
                domain = self._coming[session] = domain_of(address)
                now = sum(other == domain for other in self._coming.values())
                self._at_once[domain] = max(now, self._at_once.get(domain, 0))

    def end(self, session: int) -> None:
        """Note that a session has ended. Tolerates twice and never."""
        with self._changed:
            self._coming.pop(session, None)

    def coming(self) -> int:
        """How many letters are coming in now."""
        with self._changed:
            return len(self._coming)

    def at_once(self) -> dict[str, int]:
        """How many letters came at once, at most, by the domain they were for."""
        with self._changed:
            return self._at_once.copy()

    def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is true that arrivals change, at most so long; whether it is."""
        with self._changed:
            return self._changed.wait_for(done, seconds)

    def wake(self) -> None:
        """Have `wait` look again."""
        with self._changed:
            self._changed.notify_all()

    def count(self, kind: str) -> int:
        """Mails of a kind that have arrived, doubles included."""
        with self._changed:
            return self._by_kind[kind]

    def letters(self, kind: str) -> int:
        """Jobs of a kind of which mail has arrived."""
        with self._changed:
            return len({mail.job_id for mail in self._delivered if mail.kind == kind})

    def retried(self, kind: str) -> int:
        """Mails of a kind that were sent away once."""
        with self._changed:
            return sum(sender.startswith(f"{kind}@") for sender, _ in self._refused)

    def delivered(self) -> Counter[Mail]:
        """Everything that has arrived, and how often."""
        with self._changed:
            return self._delivered.copy()

    def foreign(self) -> int:
        """Mails of another run."""
        with self._changed:
            return self._foreign


class _Clerk:
    """Answers SMTP commands; aiosmtpd calls it by these names."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self._mailbox.begin(id(session), envelope.mail_from or "", address)
        if not self._mailbox.accepts(envelope.mail_from or "", address):
            return "451 4.7.1 greylisted, please come again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        parsed = BytesHeaderParser(policy=SMTPUTF8).parsebytes(content, headersonly=True)
        headers = {name: str(parsed[name]).strip() for name in (RUN, KIND, JOB, SAYS) if name in parsed}
        self._mailbox.put(headers, envelope.rcpt_tos)
        return "250 OK"

    async def handle_QUIT(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self._mailbox.end(id(session))
        return "221 Bye"

    def gone(self, session: Session | None) -> None:
        """A client has gone, with or without a word."""
        self._mailbox.end(id(session))


class _SmtpConnection(SMTP):
    """A connection of one client."""

    def connection_lost(self, error: Exception | None) -> None:
        self.event_handler.gone(self.session)
        super().connection_lost(error)


class MailServer:
    """An SMTP server in a thread of its own, on a free port of loopback."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mail server", daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0

    def start(self) -> None:
        """Listen; `port` is known then."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Stop listening. Tolerates twice and never."""
        if self._server is None:
            return
        asyncio.run_coroutine_threadsafe(self._close(self._server), self._loop).result()
        self._server = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        clerk = _Clerk(self._mailbox)
        return await self._loop.create_server(
            lambda: _SmtpConnection(clerk, hostname="mailroom.example", enable_SMTPUTF8=True, loop=self._loop), HOST, 0
        )

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        open_connections = [task for task in asyncio.all_tasks(self._loop) if task is not asyncio.current_task()]
        for task in open_connections:
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)
