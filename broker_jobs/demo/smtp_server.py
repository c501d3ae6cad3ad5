"""Receives mail with a real SMTP server on loopback, and counts delivered and refused mail.

The check of the demo relies on these counts. They contain every delivery with the id of its job, which each mail names
in a header, so that a mail that is delivered twice is seen.
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
RUN, KIND, JOB, CONTENT = "X-Demo-Run", "X-Demo-Kind", "X-Demo-Job", "X-Demo-Content"
"""Headers of each mail: run of the demo, kind of mail, id of the job, text that the check compares."""


class Mail(NamedTuple):
    """One mail to one address, sent by the job with this id. `content`: the text to compare, if any."""

    kind: str
    job_id: str
    address: str
    content: str = ""


class Mailbox:
    """The delivered mail. Thread-safe; `wait` wakes up at each delivery."""

    def __init__(self, run: str, watched_kinds: Collection[str] = ()) -> None:
        """`watched_kinds`: the kinds of mail whose simultaneous deliveries are counted."""
        self.run = run
        self._watched_kinds = {*watched_kinds}
        self._changed = threading.Condition()
        self._delivered: Counter[Mail] = Counter()
        self._by_kind: Counter[str] = Counter()
        self._refused: set[tuple[str, str]] = set()
        self._foreign = 0
        self._receiving: dict[int, str] = {}
        self._at_once: dict[str, int] = {}

    def accepts(self, sender: str, address: str) -> bool:
        """Whether to accept a mail now. Mail to bounce… is refused once per sender, as greylisting does."""
        if not address.lower().startswith("bounce"):
            return True
        with self._changed:
            known = (sender, address) in self._refused
            self._refused.add((sender, address))
            return known

    def put(self, headers: dict[str, str], addresses: list[str]) -> None:
        """Count a mail. Mail of another run (from a job that outlived its demo) is counted separately."""
        with self._changed:
            if headers.get(RUN) != self.run:
                self._foreign += len(addresses)
            else:
                kind, job_id, content = (headers.get(name, "") for name in (KIND, JOB, CONTENT))
                self._delivered.update(Mail(kind, job_id, address, content) for address in addresses)
                self._by_kind[kind] += len(addresses)
            self._changed.notify_all()

    def begin(self, session: int, sender: str, address: str) -> None:
        """Record that a session receives a mail, for `at_once`."""
        with self._changed:
            if sender.partition("@")[0] in self._watched_kinds:
                domain = self._receiving[session] = domain_of(address)
                now = sum(other == domain for other in self._receiving.values())
                self._at_once[domain] = max(now, self._at_once.get(domain, 0))

    def end(self, session: int) -> None:
        """Record that a session has ended. May be called twice, and without begin()."""
        with self._changed:
            self._receiving.pop(session, None)

    def receiving(self) -> int:
        """How many mails are being received now."""
        with self._changed:
            return len(self._receiving)

    def at_once(self) -> dict[str, int]:
        """The maximum of mails received at once, by the domain of their address."""
        with self._changed:
            return self._at_once.copy()

    def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait at most `seconds` until `done()` is true, checking it at each delivery; whether it is."""
        with self._changed:
            return self._changed.wait_for(done, seconds)

    def wake(self) -> None:
        """Make `wait` check again."""
        with self._changed:
            self._changed.notify_all()

    def count(self, kind: str) -> int:
        """Delivered mails of a kind, duplicates included."""
        with self._changed:
            return self._by_kind[kind]

    def jobs_delivered(self, kind: str) -> int:
        """Jobs of a kind whose mail was delivered."""
        with self._changed:
            return len({mail.job_id for mail in self._delivered if mail.kind == kind})

    def retried(self, kind: str) -> int:
        """Mails of a kind that were refused once."""
        with self._changed:
            return sum(sender.startswith(f"{kind}@") for sender, _ in self._refused)

    def delivered(self) -> Counter[Mail]:
        """All delivered mail, and how often each was delivered."""
        with self._changed:
            return self._delivered.copy()

    def foreign(self) -> int:
        """Delivered mails of another run."""
        with self._changed:
            return self._foreign


class _SmtpHandler:
    """Answers SMTP commands; aiosmtpd calls these names."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self._mailbox.begin(id(session), envelope.mail_from or "", address)
        if not self._mailbox.accepts(envelope.mail_from or "", address):
            return "451 4.7.1 greylisted, please try again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        parsed = BytesHeaderParser(policy=SMTPUTF8).parsebytes(content, headersonly=True)
        headers = {name: str(parsed[name]).strip() for name in (RUN, KIND, JOB, CONTENT) if name in parsed}
        self._mailbox.put(headers, envelope.rcpt_tos)
        return "250 OK"

    async def handle_QUIT(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self._mailbox.end(id(session))
        return "221 Bye"

    def disconnected(self, session: Session | None) -> None:
        """A client has closed the connection, with or without QUIT."""
        self._mailbox.end(id(session))


class _SmtpConnection(SMTP):
    """The connection of one client."""

    def connection_lost(self, error: Exception | None) -> None:
        self.event_handler.disconnected(self.session)
        super().connection_lost(error)


class SmtpServer:
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
        """Stop listening. May be called twice, and without start()."""
        if self._server is None:
            return
        asyncio.run_coroutine_threadsafe(self._close(self._server), self._loop).result()
        self._server = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        handler = _SmtpHandler(self._mailbox)
        return await self._loop.create_server(
            lambda: _SmtpConnection(handler, hostname="mail-demo.example", enable_SMTPUTF8=True, loop=self._loop),
            HOST,
            0,
        )

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        open_connections = [task for task in asyncio.all_tasks(self._loop) if task is not asyncio.current_task()]
        for task in open_connections:
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)
