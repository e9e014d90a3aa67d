"""A home in an object store, against a server that speaks S3 and fails as it is told, and against folders."""

import json
import threading
import time

import pytest

from ablate import driver, lease, mirror, request, segments, store, worker
from ablate.execution import Options
from ablate.home import Home, shown
from ablate.log import ledger, read
from ablate.plan import plan
from ablate.store import Away, Store, StoreError
from search_spaces import catalogue
from tests.ablate import s3
from tests.ablate.console import OFF, TOY, Shell, files, stopped_after

WHOLE = plan(catalogue.load(f"{TOY}:toy"), "laptop")


@pytest.fixture(scope="module")
def server():
    with s3.serving() as found:
        yield found


@pytest.fixture
def bucket(server, monkeypatch, tmp_path_factory):
    """URI of an empty place in a bucket that is there."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.plan()
    server.bucket("home")
    return f"s3://home/{tmp_path_factory.mktemp('prefix').name}"


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    return request.getfixturevalue("bucket") if request.param == "s3" else f"file://{tmp_path}/objects"


@pytest.fixture
def node(tmp_path, monkeypatch, capsys):
    """A command line on a node of that name: what it has cached is its own."""

    def on(name, uri):
        monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / name))
        return Shell(uri, capsys)

    return on


def test_objects_are_what_was_put(place, tmp_path):
    there = Store(place, 10.0)
    assert there.list() == []
    there.put("a/one", b"1")
    there.put("a/one", b"11")
    (tmp_path / "large").write_bytes(b"x" * (11 << 20))
    there.put_file("a/b/two", tmp_path / "large")
    there.put("c", b"")
    assert [(item.name, item.size) for item in there.list()] == [("a/b/two", 11 << 20), ("a/one", 2), ("c", 0)]
    assert [item.name for item in there.list("a")] == ["a/b/two", "a/one"]
    assert all(abs(item.changed - time.time()) < 60 for item in there.list())
    assert there.get("a/one") == b"11"
    there.get_file("a/b/two", tmp_path / "back" / "two")
    assert (tmp_path / "back" / "two").read_bytes() == b"x" * (11 << 20)
    there.copy("a/one", "d")
    assert (there.exists("d"), there.exists("e"), there.exists("a")) == (True, False, False)
    there.delete("d")
    there.delete("d")
    assert not there.exists("d")
    there.check()
    assert [item.name for item in there.list()] == ["a/b/two", "a/one", "c"]


def test_an_object_that_is_not_there_is_no_failure_of_the_store(place, tmp_path):
    there = Store(place, 10.0)
    with pytest.raises(FileNotFoundError):
        there.get("a")
    with pytest.raises(FileNotFoundError):
        there.get_file("a", tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        there.copy("a", "b")
    with pytest.raises(FileNotFoundError):
        there.put_file("a", tmp_path / "nowhere")
    assert files(tmp_path) == []


def test_one_request_in_five_may_fail(server, bucket):
    there = Store(bucket, 60.0)
    server.plan(0.2)
    for number in range(25):
        there.put(f"x/{number}", str(number).encode())
    assert [there.get(f"x/{number}") for number in range(25)] == [str(number).encode() for number in range(25)]
    for number in range(20):
        there.delete(f"x/{number}")
    assert len(there.list("x")) == 5


def test_an_outage_is_waited_for_and_then_said(server, bucket, monkeypatch):
    monkeypatch.setattr(store, "LONGEST_PAUSE_S", 0.2)
    there = Store(bucket, 60.0)
    server.plan(away=True)
    back = threading.Timer(2.0, server.plan)
    back.start()
    there.put("x", b"1")
    back.join()
    assert there.get("x") == b"1"
    server.plan(away=True)
    with pytest.raises(Away, match=r"x cannot be read \(.*tried for .*nothing that was recorded is lost"):
        there.patient(0.5).get("x")


@pytest.mark.parametrize("command", ["run", "status", "report", "resume", "show", "sync", "reproduce", "compare"])
def test_a_bucket_that_does_not_exist_is_refused(bucket, node, command):
    argument = {"status": [], "sync": [], "reproduce": ["ab"], "compare": ["a@smoke"]}.get(command, [f"{TOY}:toy"])
    found = node("here", "s3://nobody/prefix")(command, *argument)
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert "s3://nobody/prefix: there is no such bucket. Make it, or name another --home." in found.err


def test_a_store_that_cannot_be_written_is_refused_before_anything_trains(server, bucket, node):
    with stopped_after(2):
        assert node("one", bucket).trains().code == 130
    server.plan(read_only=True)
    refused = node("two", bucket).trains("broken")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "cannot be written (access denied" in refused.err
    assert "Give credentials" in refused.err
    assert node("two", bucket)("status").out.count("2 of 12 done") == 1, "what only reads goes on"
    reported = node("two", bucket)("report", f"{TOY}:toy")
    assert reported.code == 0
    assert reported.err.count("cannot be written") == 1


@pytest.mark.parametrize("place", ["s3", pytest.param("folder", marks=pytest.mark.slow)], indirect=True)
def test_a_sweep_goes_on_on_another_node_and_every_command_finds_it(place, node):
    one = node("one", place)
    with stopped_after(5):
        assert one.trains().code == 130
    two = node("two", place)
    assert "5 of 12 done" in two("status").out
    assert two("resume", f"{TOY}:toy", "--local", *OFF).code == 0
    three = node("three", place)
    assert "12 of 12 done" in three("status").out
    ended = [line for _, line in log_lines(three) if line["kind"] == "ended"]
    assert len({line["trial"] for line in ended}) == len(ended) == 12
    report = json.loads(three("report", f"{TOY}:toy", "--json").out)
    assert len(report["findings"]["arms"]) == 3
    assert three("show", f"{TOY}:toy").out.count(f"{shown(place)}") >= 1
    assert three("reproduce", ended[0]["trial"]).code == 0
    assert three.bare("compare", f"here={place}:toy@laptop", "toy@laptop", "--home", place).code == 0
    assert three("doctor", *OFF).out.count("can be written") == 1
    left = [item.name for item in Store(place).list()]
    assert {"reports/toy@laptop/report.html", "frames/toy@laptop/trials.parquet"} <= set(left)
    assert not [name for name in left if ".lock/" in name or "/lock/" in name], "no claim is left behind"


def log_lines(shell):
    return read(request.opened(shell.home).log("toy@laptop"))


def numbers(home):
    return {ident: [epoch["metrics"] for epoch in entry.record.epochs] for ident, entry in ledger(home).items()}


def test_a_sweep_through_a_store_that_fails_one_request_in_five(server, bucket, node, tmp_path):
    driver.run(WHOLE, Options(home=Home(tmp_path / "undisturbed"), local=True))
    server.plan(0.2)
    found = node("two", bucket).trains()
    server.plan()
    assert (found.code, found.err) == (0, "")
    assert numbers(request.opened(bucket)) == numbers(Home(tmp_path / "undisturbed"))


def test_an_outage_in_a_sweep_pauses_it(server, bucket, node, monkeypatch):
    """From the third end on the store is away for some seconds; nothing is lost and nobody sees it."""
    monkeypatch.setattr(store, "LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr(segments, "SYNC_S", 0.2)
    monkeypatch.setattr(mirror, "BRIEF_S", 0.2)
    original, ends = worker.checkpoint.finish, []

    def finishing(*given, **more):
        ends.append(given)
        if len(ends) == 3:
            server.plan(away=True)
            threading.Timer(5.0, server.plan).start()
        return original(*given, **more)

    monkeypatch.setattr(worker.checkpoint, "finish", finishing)
    node("one", bucket)
    found = driver.run(WHOLE, Options(home=request.opened(bucket), local=True))
    assert (len(found.done), found.message) == (12, "")
    assert "12 of 12 done" in node("two", bucket)("status").out


def test_two_drivers_at_once_are_one(bucket, node):
    node("one", bucket)
    home = Home.at(bucket)
    home.root.mkdir(parents=True)
    with lease.hold(home, home.lock("toy@laptop"), "process 7 on one, since noon: python -m ablate run toy"):
        found = node("two", bucket).trains()
        assert found.code == 3
        assert found.err.count("\n") == 1
        assert f"toy@laptop in {bucket} is being run by process 7 on one" in found.err
        assert "Running: process 7" not in node("two", bucket)("status").out, "nothing of it was launched"
    with stopped_after(1):
        assert node("two", bucket).trains().code == 130


def test_passwords_of_a_uri_reach_no_message_and_no_object(server, bucket, node, tmp_path):
    secret = f"{bucket.replace('s3://', 's3://AKIAPLANTED:planted-secret@')}?scheme=http&endpoint_override={server.host}:{server.port}"
    shell = node("one", secret)
    said = [shell.trains(), shell("status"), shell("show", f"{TOY}:toy"), shell("doctor", *OFF)]
    with stopped_after(1):
        said.append(shell.trains("broken"))
    server.plan(read_only=True)
    said.append(shell.trains("broken", "--blocks", "1"))
    server.plan()
    said.append(node("one", secret.replace("scheme=", "schema="))("status"))
    assert [found.code for found in said] == [0, 0, 0, 0, 130, 2, 2]
    for found in said:
        assert "planted" not in (found.out + found.err).lower()
    for item in (there := Store(bucket)).list():
        assert b"planted" not in there.get(item.name).lower(), item.name
    for path in (tmp_path / "one").rglob("*"):
        assert not path.is_file() or b"planted" not in path.read_bytes().lower(), path


def test_commands_on_a_folder_import_no_pyarrow(tmp_path):
    import subprocess
    import sys

    code = "import sys; from ablate.__main__ import main; main(sys.argv[1:]); assert 'pyarrow' not in sys.modules"
    command = [sys.executable, "-c", code, "status", "--home", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s4://me:secret@bucket/x", "--home s4://bucket/x: not a place that ablate can use"),
        ("s3://me:secret@bucket/x?nonsense=1", "--home s3://bucket/x: not a place that ablate can use"),
        ("s3://", "names no bucket"),
        ("file:///proc/nowhere", "cannot be written (No such file or directory). Mend its path"),
        ("file:///dev/null/x", "cannot be written (Not a directory). Mend its path"),
    ],
)
def test_a_uri_that_cannot_be_a_home_is_said(uri, said, node):
    found = node("one", uri).trains()
    assert found.code == 2
    assert said in found.err
    assert "secret" not in found.err


def test_a_cache_is_named_for_the_place_and_not_for_who_asks(monkeypatch, tmp_path):
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    one = Home.at("s3://me:secret@bucket/x")
    assert one.root.parent == tmp_path
    assert one.root == Home.at("s3://bucket/x/").root
    assert one.root != Home.at("s3://bucket/y").root
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert one.root != Home.at("s3://bucket/x").root
    assert one.name == "s3://bucket/x"
    assert Home(tmp_path / "elsewhere", one.remote).here().root == Home.at("s3://bucket/x").root


def test_a_store_error_is_told_by_its_cause():
    cause = OSError(
        "When initiating multiple part upload for key 'a' in bucket 'b': AWS Error ACCESS_DENIED during "
        "CreateMultipartUpload operation: Access Denied (Request ID: abc)"
    )
    with pytest.raises(StoreError, match=r"a cannot be written \(access denied: Access Denied\)\. Give credentials"):
        Store("s3://b")._through("written", "a", lambda: (_ for _ in ()).throw(cause))
