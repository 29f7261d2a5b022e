"""URLs: what they may say, and that no password is ever shown."""

import pytest

from adapters.postgres import migrate, open_store
from adapters.postgres.address import Options, address_of
from eventcore.errors import Kind, StoreError


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://db.example/events", "db.example:5432"),
        ("postgres://u:secret@db.example:6432/events", "db.example:6432"),
        ("postgresql://u:secret@one:1,two:2,three/events?target_session_attrs=read-write", "one:1, two:2, three:5432"),
        ("postgresql://u:secret@[::1]:5433/events", "[::1]:5433"),
        ("postgresql://u:secret@/events?host=db.example", "db.example:5432"),
        ("postgresql:///events?host=/var/run/secret", "the server of this URL"),
        ("postgresql:///events", "the local server"),
        ("postgresql://", "the local server"),
        ("postgresql://u:secret@db.example:port/events", "the server of this URL"),
    ],
)
def test_people_see_hosts_and_ports(url: str, shown: str) -> None:
    assert address_of(url).shown == shown


def test_the_driver_gets_what_is_not_ours() -> None:
    address = address_of("postgresql://u:p%40ss@h/d?writers=3&sslmode=require&search_path=a%2C%20b&timeout_seconds=2.5")
    assert address.dsn == "postgresql://u:p%40ss@h/d?sslmode=require&search_path=a%2C%20b"
    assert address.given == {"sslmode", "search_path"}
    assert address.options == Options(writers=3, timeout_seconds=2.5)
    assert address.chosen == {"writers", "timeout_seconds"}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:zqxj@part@h/d",
        "postgresql://u:zq/xj@h/d",
        "postgresql://u:77/zqxj@h/d",
        "postgresql://u:zq?xj@h/d",
        "postgresql://u:zq#xj@h/d",
        "postgresql://u:77#zqxj@h/d",
        "postgresql://u:zqxj@h/d?writers",
        "postgresql://u:zqxj@h/d?writers=0",
        "postgresql://u:zqxj@h/d?writers=many",
        "postgresql://u:zqxj@h/d?timeout_seconds=0",
        "postgresql://u:zqxj@h/d?timeout_seconds=nan",
        "postgresql://u:zqxj@h/d?chunk_days=0",
        "postgresql://u:zqxj@h/d?retention_days=-1",
        "postgresql://u:zqxj@h/d?timescaledb=perhaps",
        "postgresql://u:zqxj@[h/d",
        "postgresql://u:zqxj@127.0.0.1/d?sslmode=perhaps",
    ],
)
async def test_what_no_url_may_say(url: str) -> None:
    for use in (open_store, migrate):
        with pytest.raises(StoreError) as caught:
            await use(url)
        assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_url")
        for part in ("zq", "xj", "77"):
            assert part not in caught.value.message


async def test_nobody_listens() -> None:
    with pytest.raises(StoreError) as caught:
        await open_store("postgresql://user:secret@127.0.0.1:1/events")
    assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "unreachable")
    assert caught.value.message == "127.0.0.1:1 cannot be reached: start it, or correct the URL"
    assert caught.value.__cause__ is not None


async def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(StoreError) as caught:
        await open_store("postgresql://user:secret@eventcore.invalid/events")
    assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
