"""What nodes carry, by nodes made by hand: against a slow filling of each, and what labels mean to Ray."""

import itertools
import random
import socket
from pathlib import Path

import pytest

from ablate import nodes, parcel
from ablate.nodes import Node, Question, Resources


def node(name: str, *, labels: dict[str, str] | None = None, **resources: float) -> Node:
    return Node(name, f"host-{name}", "127.0.0.1", 1, resources, {nodes.NODE_ID: name} | (labels or {}))


def filled(there: dict[str, float], bundle: dict[str, float]) -> int:
    """How often the bundle can be taken out of what is there."""
    left, count = dict(there), 0
    while all(left.get(name, 0.0) >= amount - 1e-9 for name, amount in bundle.items()):
        left = {name: value - bundle.get(name, 0.0) for name, value in left.items()}
        count += 1
    return count


def test_slots_are_what_fits_on_each_node_for_itself() -> None:
    draw = random.Random(0)
    for _ in range(200):
        there = [{"CPU": float(draw.randint(0, 9)), "GPU": float(draw.randint(0, 3))} for _ in range(3)]
        wanted = Resources(cpus=draw.choice([0.5, 1.0, 2.0, 3.0]), gpus=draw.choice([0.0, 0.1, 0.25, 1 / 3, 1.0, 2.0]))
        found = nodes.slots([node(str(k), **each) for k, each in enumerate(there)], wanted)
        assert found == sum(filled(each, wanted.bundle()) for each in there)


def test_slots_count_custom_resources_labels_and_the_asked_for_most() -> None:
    disks = [node("a", labels={"zone": "x"}, CPU=8, disk=3), node("b", labels={"zone": "y"}, CPU=8)]
    assert nodes.slots(disks, Resources(1.0, 0.0, custom={"disk": 1.0})) == 3
    assert nodes.slots(disks, Resources(1.0, 0.0, labels={"zone": "!x"})) == 8
    assert nodes.slots(disks, Resources(1.0, 0.0, slots=5)) == 5
    assert nodes.slots(disks, Resources(1.0, 0.0, labels={"zone": "z"})) == 0


@pytest.mark.parametrize(
    ("wanted", "has"),
    [
        ("x", [True, False, False]),
        ("!x", [False, True, True]),
        ("in(x, y)", [True, True, False]),
        ("!in(x,y)", [False, False, True]),
    ],
)
def test_labels_are_compared_as_ray_does(wanted: str, has: list[bool]) -> None:
    zones = [node("a", labels={"zone": "x"}), node("b", labels={"zone": "y"}), node("c")]
    assert [each.has({"zone": wanted}) for each in zones] == has


def test_room_is_there_until_the_nodes_are_full_of_hands_of_one_kind() -> None:
    there = [node("a", CPU=8, GPU=2), node("b", CPU=8, GPU=1)]
    for share, most in ((0.25, 12), (0.5, 6), (1.0, 3)):
        running: list[float | None] = []
        while nodes.room(there, Resources(1.0, 1.0), running):
            running.append(share)
        # The first is asked for as every trial; from then on the last one's share counts.
        assert len(running) == most


def test_hands_of_other_kinds_take_their_part() -> None:
    there = [node("a", CPU=8, GPU=2)]
    assert nodes.room(there, Resources(1.0, 1.0), [1.0, 0.5])
    assert not nodes.room(there, Resources(1.0, 1.0), [1.0, 0.5, 0.5])
    assert not nodes.room(there, Resources(1.0, 1.0, slots=2), [0.25, 0.25])


def test_a_trial_that_fits_nowhere_is_told_what_is_missing() -> None:
    there = [node("a", CPU=4, GPU=1), node("b", CPU=2, GPU=2)]
    few = {
        "3 GPUs a trial are asked for, and its largest node has 2": Resources(1.0, 3.0),
        "1 of disk a trial are asked for": Resources(1.0, 0.0, custom={"disk": 1.0}),
        "no node has the labels zone=x": Resources(1.0, 0.0, labels={"zone": "x"}),
        "no single node has all": Resources(4.0, 2.0),
    }
    for said, wanted in few.items():
        assert nodes.slots(there, wanted) == 0
        assert said in nodes.too_little(there, wanted)


def test_a_selector_holds_the_labels_and_who_is_avoided() -> None:
    assert nodes.selector({}, ()) == {}
    assert nodes.selector({"zone": "x"}, ("b", "a")) == {"zone": "x", nodes.NODE_ID: "!in(a,b)"}
    avoiding = nodes.selector({}, ("b", "a"))
    assert [node(name).has(avoiding) for name in "abc"] == [False, False, True]


def test_a_node_sees_the_home_only_where_both_find_each_others_file(tmp_path: Path) -> None:
    folder = tmp_path / "scratch" / "sweep-1"
    folder.mkdir(parents=True)
    assert "is not the folder there" in nodes.look("n1", Question(folder=folder)).lack
    (folder / nodes.TOKEN).touch()
    assert not nodes.ours(folder, "n1")
    seen = nodes.look("n1", Question(folder=folder, data=tmp_path / "none"))
    assert not seen.lack
    assert nodes.ours(folder, "n1")
    assert "none is no folder there" in seen.data
    assert seen.versions["python"].count(".") == 2


def test_services_that_nobody_offers_are_named(tmp_path: Path) -> None:
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as server:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        asked = (("up", "127.0.0.1", server.getsockname()[1]), ("down", "127.0.0.1", closed.getsockname()[1]))
        assert nodes.look("n", Question(services=asked)).unreachable == ("down",)


def test_a_study_travels_with_its_neighbours_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "mine"
    for name in ("study.py", "method.py", "notes.txt", "part/__init__.py", "part/table.csv", "data/images.py"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    sent = parcel.pack(str(home / "study.py"), tmp_path / "code")
    assert [Path(each).name for each in sent[:-1]] == ["ablate", "analysis", "search_spaces", "trainables"]
    arrived = Path(sent[-1])
    files = sorted(str(path.relative_to(arrived)) for path in arrived.rglob("*") if path.is_file())
    assert files == ["method.py", "part/__init__.py", "part/table.csv", "study.py"]
    assert parcel.unpacked(str(home / "study.py")) == str(home / "study.py")
    monkeypatch.syspath_prepend(str(arrived.parent))
    assert parcel.unpacked(str(home / "study.py")) == str(arrived / "study.py")
    assert parcel.unpacked("") == ""


def test_a_study_among_much_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "LARGEST_BYTES", 10)
    (tmp_path / "study.py").write_text("x" * 11)
    with pytest.raises(parcel.TooLarge, match="folder of its own"):
        parcel.pack(str(tmp_path / "study.py"), tmp_path / "code")


def test_all_kinds_of_bundles_name_only_what_is_more_than_none() -> None:
    for cpus, gpus, disk in itertools.product((0.0, 1.0), (0.0, 0.5), (0.0, 2.0)):
        bundle = Resources(cpus, gpus, custom={"disk": disk}).bundle()
        assert bundle == {name: value for name, value in (("CPU", cpus), ("GPU", gpus), ("disk", disk)) if value}
    assert Resources(1.0, 1.0).bundle(0.25) == {"CPU": 1.0, "GPU": 0.25}
