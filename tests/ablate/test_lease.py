"""Holds on what several nodes see: one holder at a time, and none for ever."""

import threading
import time
from pathlib import Path

import pytest

from ablate import lease
from ablate.home import Home
from ablate.lease import hold
from ablate.lock import Locked
from tests.ablate import stores


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(lease, "AGAIN_S", 0.005)
    return stores.installed(monkeypatch)


@pytest.fixture
def nodes(tmp_path, faulty):
    found = [Home(tmp_path / name, f"fake://{tmp_path}/store") for name in ("one", "two", "three", "four")]
    for home in found:
        home.root.mkdir()
    return found


def thing(home):
    return home.root / "log" / "x.lock"


def claims(home):
    """Whole ones: the store puts a file beside, under a name with a dot, and renames it."""
    folder = Path(home.remote.removeprefix("fake://")) / "log" / "x.lock"
    return [path for path in folder.glob("*") if not path.name.startswith(".")]


def test_a_home_in_a_folder_knows_no_lease(tmp_path):
    home = Home(tmp_path)
    with hold(home, thing(home), "me") as held:
        held.check()
        with pytest.raises(Locked, match="held by me"):
            hold(home, thing(home)).__enter__()


def test_another_node_is_refused_and_told_who_holds(nodes):
    one, two, *_ = nodes
    with hold(one, thing(one), "process 7 on one"):
        assert lease.holder(two, thing(two)) == "process 7 on one"
        with pytest.raises(Locked, match="process 7 on one"):
            hold(two, thing(two), "two").__enter__()
    assert claims(one) == []
    assert lease.holder(two, thing(two)) is None
    with hold(two, thing(two), "two"):
        pass


def test_a_dead_holder_of_another_node_is_waited_for_until_its_claim_expires(nodes, tmp_path):
    one, two, *_ = nodes
    abandoned(one)
    with pytest.raises(Locked, match="dead"):
        hold(two, thing(two), wait_s=0.02).__enter__()
    stores.aged(tmp_path / "store", lease.EXPIRES_S + 1)
    assert lease.holder(two, thing(two)) is None
    with hold(two, thing(two)):
        assert len(claims(two)) == 1, "the dead claim is removed"


def test_a_dead_holder_of_this_node_is_not_waited_for(nodes):
    one, *_ = nodes
    abandoned(one)
    assert lease.holder(one, thing(one)) is None
    with hold(one, thing(one), "again"):
        assert len(claims(one)) == 1


def abandoned(home):
    """A claim whose process was killed: nothing renews it, and the node's lock is free."""
    home.root.joinpath("node").write_text(f"node of {home.root.name}")
    claim = lease._Claims(stores.FolderStore(home.remote), "log/x.lock", f"node of {home.root.name}")
    claim.write("log/x.lock/0123", "dead")


def test_of_many_at_once_one_holds_at_a_time(nodes):
    inside, most, done = [], [], []

    def work(home):
        for _ in range(5):
            with hold(home, thing(home), home.root.name, wait_s=60.0):
                inside.append(home)
                most.append(len(inside))
                time.sleep(0.001)
                inside.remove(home)
                done.append(home)

    threads = [threading.Thread(target=work, args=(home,)) for home in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(done) == 20


def test_a_claim_is_renewed_before_it_expires(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.005)
    one, *_ = nodes
    with hold(one, thing(one), "one") as held:
        before = claims(one)[0].stat().st_mtime_ns
        for _ in range(1000):
            if claims(one) and claims(one)[0].stat().st_mtime_ns > before:
                break
            time.sleep(0.005)
        assert claims(one)[0].stat().st_mtime_ns > before
        held.check()


def test_who_could_not_renew_finds_that_another_took_over(nodes, tmp_path, monkeypatch):
    """An outage for one node: its claim expires, another holds, and when it is back it knows."""
    monkeypatch.setattr(lease, "LATE_S", -1.0)
    monkeypatch.setattr(lease, "YIELD_S", 0.01)
    one, two, *_ = nodes
    mine = lease._Claims(stores.FolderStore(one.remote), "log/x.lock", "n1")
    name = "log/x.lock/aaaa"
    held = lease._Lease(mine, thing(one), name, "one", mine.write(name, "one"))
    held._renew_once(mine)
    held.check()
    stores.aged(tmp_path / "store", lease.EXPIRES_S + 1)
    monkeypatch.setattr(lease, "LATE_S", 30.0)
    with hold(two, thing(two), "two"):
        monkeypatch.setattr(lease, "LATE_S", -1.0)
        held._renew_once(mine)
        with pytest.raises(Locked, match="held by two"):
            held.check()
        assert len(claims(two)) == 1


def test_a_store_that_is_away_does_not_keep_a_holder_from_leaving(nodes, faulty):
    one, *_ = nodes
    with hold(one, thing(one)):
        faulty.away = True
    faulty.away = False
    assert len(claims(one)) == 1
    with hold(one, thing(one)):
        assert len(claims(one)) == 1
