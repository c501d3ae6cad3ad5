"""Names the installation that a store belongs to, and refuses a store that belongs to another one.

An installation is a virtual host of a RabbitMQ cluster, or a memory:// broker. Its name is the hosts and the virtual
host of the broker's address: credentials, options and the order of the hosts do not matter. Two addresses are of one
installation if they have the virtual host and at least one host in common, so a cluster may grow and its address list
may change. What cannot be told from addresses (a broker that moved, another name of a host) a person says.
"""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

from broker_jobs.errors import StoreError
from broker_jobs.messages.envelope import is_generated_id
from broker_jobs.store.open import Store

_PORTS = {"amqp": 5672, "amqps": 5671}
_THIS_MACHINE = frozenset({"", "localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104  # compared, not bound


class ForeignStoreError(StoreError):
    """The store belongs to another installation."""


def installation_of(url: str) -> str:
    """The name of the installation that a broker's address is of; empty where the address cannot be read."""
    if url.startswith("memory://"):
        name = url.removeprefix("memory://").split("?", 1)[0].rstrip("/")
        # `broker-jobs run` gives an unnamed memory a new id at each start, which names no installation.
        return "memory://" if is_generated_id(name) else f"memory://{name}"
    hosts: set[str] = set()
    virtual_host = ""
    for part in url.split(","):
        try:
            parsed = urlsplit(part.strip())
            port = parsed.port or _PORTS.get(parsed.scheme, 5672)
            host = (parsed.hostname or "").rstrip(".")
        except ValueError:
            return ""
        hosts.add(f"{'localhost' if host in _THIS_MACHINE else host}:{port}")
        virtual_host = unquote(parsed.path[1:]) or "/"
    return _name(hosts, virtual_host)


def check(store: Store, url: str) -> None:
    """Refuse an open store that belongs to another installation than the broker at this address.

    Raises:
        ForeignStoreError: says whose it is and what to write instead.
    """
    kept, own = store.reader.installation(), installation_of(url)
    if not _is_same(kept, own):
        raise _foreign(store, kept, own)


def claim(store: Store, url: str) -> None:
    """As `check`, for a coordinator: the first one writes the name, later ones add hosts that are new.

    Raises:
        ForeignStoreError: as `check`.
    """
    own = installation_of(url)
    with store.transaction() as tx:
        kept = tx.installation()
        if not _is_same(kept, own):
            raise _foreign(store, kept, own)
        if (joined := _joined(kept, own)) != kept:
            tx.save_installation(joined)


def adopt(store: Store, url: str, *, also: bool = False) -> str:
    """Let the store belong to the installation at this address, or with `also` to both addresses; its new name."""
    own = installation_of(url)
    if not own:
        raise StoreError("the broker's address cannot be read: write amqp://user:password@host:5672/vhost")
    with store.transaction() as tx:
        kept = tx.installation()
        if also and kept and _parts(kept)[1] != _parts(own)[1]:
            raise StoreError(
                f"{own} is no other address of {kept}: their virtual hosts differ. Leave out --also if it has moved"
            )
        name = _joined(kept, own) if also else own
        tx.save_installation(name)
        return name


def _foreign(store: Store, kept: str, own: str) -> ForeignStoreError:
    return ForeignStoreError(
        f"the store {store.url_masked} belongs to the installation {kept}, and this program uses {own}. Two"
        " installations must not share a store: give each one its own (BROKER_JOBS_STORE=sqlite:///path/to/store.db, or"
        " --store). If the broker has moved, run broker-jobs store adopt; if this is another address of the same one,"
        " broker-jobs store adopt --also"
    )


def _is_same(kept: str, own: str) -> bool:
    if not kept or not own or kept == own:
        return True
    (kept_hosts, kept_place), (own_hosts, own_place) = _parts(kept), _parts(own)
    return kept_place == own_place and bool(kept_hosts & own_hosts)


def _joined(kept: str, own: str) -> str:
    if not kept or not own:
        return own or kept
    (kept_hosts, place), (own_hosts, _) = _parts(kept), _parts(own)
    return kept if own_hosts <= kept_hosts else f"amqp://{','.join(sorted(kept_hosts | own_hosts))}/{place}"


def _name(hosts: set[str], virtual_host: str) -> str:
    return f"amqp://{','.join(sorted(hosts))}/{quote(virtual_host, safe='')}"


def _parts(name: str) -> tuple[frozenset[str], str]:
    """(hosts, virtual host) of a name; memory:// has no hosts, and each of its names is a place of its own."""
    if name.startswith("memory://"):
        return frozenset(), name
    hosts, _, virtual_host = name.removeprefix("amqp://").rpartition("/")
    return frozenset(hosts.split(",")), virtual_host
