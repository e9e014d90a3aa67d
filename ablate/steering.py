"""Orders to a sweep while it runs: pause, resume or cancel an arm; more blocks or arms.

An order is a file of its own in `<home>/log/<sweep>.orders/`, so that anybody who may write the home gives one, from
any machine, without a lock, and without a driver. The driver looks there at most once a second and says in its log
which orders it took up (lines "ordered"): what stands follows from the log, and outlives the driver.

A trial is withheld when no arm that is to run wants it. One that runs is asked to stop by a file in its folder, which
its worker looks at after each epoch: it keeps its state there and gives the trial back.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from getpass import getuser
from pathlib import Path
from typing import Any, Literal

from ablate import store
from ablate.home import Home
from ablate.plan import Plan
from ablate.plan import plan as make_plan
from ablate.store import StoreError

LOOK_S, LOOK_FAR_S = 1.0, 5.0
"""A driver looks for orders at most so often; where the home is an object store, the second."""
BRIEF_S = 1.0
"""How long a driver that has other things to do waits for an object store."""
STOP = "stop"
"""File in a trial's folder: the hand that is to give the trial back after its epoch."""
STATES = {"pause": "paused", "cancel": "cancelled"}
Do = Literal["pause", "resume", "cancel", "extend"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What somebody wants of a sweep."""

    do: Do
    arms: tuple[str, ...] = ()
    """Those that it is about; for 'extend' those to add."""
    blocks: int | None = None
    """For 'extend': so many, the first ones."""
    by: str = ""
    time: float = 0.0
    order: str = ""
    """Its name, which sorts by the time it was given."""
    refused: str = ""
    """Why the driver does not follow it."""

    @property
    def line(self) -> dict[str, Any]:
        """As the log has it, whose lines have a time of their own."""
        return {name: value for name, value in asdict(self).items() if name != "time"}

    @property
    def text(self) -> str:
        """For people: 'pause of arm a, by me@here'."""
        arms = ("arm " if len(self.arms) == 1 else "arms ") + ", ".join(self.arms) if self.arms else ""
        blocks = f"{self.blocks} blocks" if self.blocks is not None else ""
        what = " and ".join(filter(None, [arms, f"to {blocks}" if blocks else ""]))
        return f"{self.do} {what}, ordered by {self.by}" + (f": refused, {self.refused}" if self.refused else "")


@dataclass(frozen=True)
class Steered:
    """What the orders so far come to."""

    arms: Mapping[str, str] = field(default_factory=dict)
    """Arm -> paused | cancelled; the others run."""
    taken: frozenset[str] = frozenset()
    """Names of orders that the log has."""

    @property
    def text(self) -> str:
        """For people: 'paused: a, b; cancelled: c'."""
        states = ("paused", "cancelled")
        named = {state: [arm for arm, said in self.arms.items() if said == state] for state in states}
        return "; ".join(f"{state}: {', '.join(arms)}" for state, arms in named.items() if arms)

    def after(self, order: Order) -> "Steered":
        """With one order more."""
        arms = dict(self.arms)
        for arm in order.arms if not order.refused and order.do != "extend" else ():
            arms.pop(arm, None)
            if order.do in STATES:
                arms[arm] = STATES[order.do]
        return Steered(arms, self.taken | {order.order})


NOTHING = Steered()


def give(home: Home, sweep: str, order: Order) -> Order:
    """Gives the order, under a name of its own; returns it as given."""
    now = time.time()
    name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"  # two orders in a row keep their order
    order = replace(order, by=f"{_user()}@{socket.gethostname()}", time=now, order=name)
    _put(home, home.orders(sweep) / name, json.dumps(asdict(order)))
    return order


def given(home: Home, sweep: str, taken: Collection[str] = ()) -> list[Order]:
    """Orders that were given and not taken up, oldest first.

    Raises:
        StoreError: the home is an object store that cannot be read.
    """
    folder, remote = home.orders(sweep), store.of(home, BRIEF_S)
    if remote is None:
        there = {path.name for path in folder.glob("[!.]*")}
        return [_read(name, (folder / name).read_text(errors="replace")) for name in sorted(there - set(taken))]
    place = folder.relative_to(home.root).as_posix()
    there = {item.name.rpartition("/")[2] for item in remote.list(place)}
    return [_read(name, remote.get(f"{place}/{name}").decode(errors="replace")) for name in sorted(there - set(taken))]


def foreseen(home: Home, plan: Plan, steered: Steered) -> tuple[Plan, Steered]:
    """What will stand once a driver has taken up all that was given; what cannot be read now comes later."""
    with suppress(StoreError):
        for order in given(home, plan.sweep, steered.taken):
            order = judged(order, plan)
            steered = steered.after(order)
            plan = plan if order.refused else extended(plan, order)
    return plan, steered


def from_line(line: Mapping[str, Any]) -> Order:
    """The order of a log's line "ordered"."""
    fields = {name: line[name] for name in Order.__dataclass_fields__ if name in line and name != "time"}
    return Order(**fields | {"arms": tuple(fields.get("arms", ()))})


def withheld(plan: Plan, arms: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
    """Trials not to run now, and those not to run at all: no arm that is to run wants them, or needs them."""
    if not arms:
        return frozenset(), frozenset()
    wanting: dict[str, set[str]] = {}
    for cell in plan.cells:
        wanting.setdefault(cell.trial, set()).add(cell.arm)
    for trial in reversed(plan.trials):  # those that others need come before them
        for other in trial.needs.values():
            wanting.setdefault(other, set()).update(wanting[trial.id])
    off = {ident for ident, who in wanting.items() if who <= arms.keys()}
    cancelled = {ident for ident in off if all(arms[arm] == "cancelled" for arm in wanting[ident])}
    return frozenset(off - cancelled), frozenset(cancelled)


def extended(plan: Plan, order: Order) -> Plan:
    """The plan with the order's arms and blocks too; the very same one where it has them.

    Raises:
        ValueError: arms or blocks that the study does not declare, or a search, whose arms follow from results.
    """
    if order.do != "extend":
        return plan
    if plan.study.tuning is not None:
        raise ValueError(f"{plan.study.name} is a search: its arms follow from results, and its blocks are declared")
    there = {cell.arm for cell in plan.cells}
    for arm in order.arms:
        plan.study.arm(arm)
    blocks = max(len({cell.block for cell in plan.cells}), order.blocks or 0)
    if blocks > len(plan.scale.blocks):
        raise ValueError(
            f"{blocks} blocks are more than the {len(plan.scale.blocks)} that scale {plan.scale.name!r} declares"
        )
    arms = [arm.name for arm in plan.study.arms if arm.name in there | set(order.arms)]
    larger = make_plan(plan.study, plan.scale.name, arms=arms, blocks=blocks)
    return plan if larger.cells == plan.cells else larger


class Helm:
    """A driver's side: what was ordered since it last looked, what stands, and what it has called back."""

    def __init__(self, home: Home, sweep: str, steered: Steered) -> None:
        self.home, self.sweep, self.steered = home, sweep, steered
        self.looked = -LOOK_FAR_S
        self.mine = f"{socket.gethostname()}/{os.getpid()}/{time.time_ns()}"
        self.called: set[str] = set()
        """Trials that were called back and have not come."""

    def token(self, hand: int) -> str:
        """What a stop file says that is meant for that hand of this driver."""
        return f"{self.mine}/{hand}"

    def orders(self, plan: Plan) -> list[Order]:
        """Those to take up now; ones that cannot be followed say why."""
        now = time.monotonic()
        if now - self.looked < (LOOK_S if self.home.remote is None else LOOK_FAR_S):
            return []
        self.looked, orders = now, []
        with suppress(StoreError):  # it is away: later
            orders = [judged(order, plan) for order in given(self.home, self.sweep, self.steered.taken)]
        for order in orders:
            self.steered = self.steered.after(order)
        return orders

    def call_back(self, running: Mapping[str, int], off: Collection[str]) -> None:
        """Has the workers give back what is withheld; `running`: trials handed out -> number of their hand."""
        for ident, hand in running.items():
            if ident in off:
                with suppress(StoreError, OSError):  # it ends as any other, then
                    _put(self.home, self.home.trial(ident) / STOP, self.token(hand))
                    self.called.add(ident)
            else:
                self.back(ident)

    def back(self, ident: str) -> None:
        """The trial came back, or ended before it could, or may go on."""
        if ident not in self.called:
            return
        self.called.discard(ident)
        path, remote = self.home.trial(ident) / STOP, store.of(self.home, BRIEF_S)
        path.unlink(missing_ok=True)
        if remote is not None:
            with suppress(StoreError):
                remote.delete(path.relative_to(self.home.root).as_posix())


def stop_asked(home: Home, ident: str, token: str, *, saving: bool) -> bool:
    """Whether that hand is to give the trial back. What was meant for another hand concerns nobody any more.

    An object store is asked only where a checkpoint goes there anyhow (`saving`).
    """
    path, remote = home.trial(ident) / STOP, store.of(home, BRIEF_S)
    if not token or (remote is not None and not saving):
        return False
    try:
        said = path.read_bytes() if remote is None else remote.get(path.relative_to(home.root).as_posix())
    except (FileNotFoundError, StoreError):
        return False
    return said == token.encode()


def _put(home: Home, path: Path, text: str) -> None:
    """Writes a small file of the home, whole or not at all, where everybody finds it."""
    remote = store.of(home, BRIEF_S)
    if remote is not None:
        remote.put(path.relative_to(home.root).as_posix(), text.encode())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    beside.replace(path)


def judged(order: Order, plan: Plan) -> Order:
    """The order, refused where this sweep cannot follow it."""
    if order.refused:
        return order
    try:
        if order.do == "extend":
            extended(plan, order)
        there = list(dict.fromkeys(cell.arm for cell in plan.cells))
        for arm in order.arms:
            plan.study.arm(arm)
            if arm not in there and order.do != "extend":
                raise ValueError(f"{arm} is no arm of this sweep, which has {', '.join(there)}")
        if order.do == "cancel" and plan.study.tuning is not None:
            raise ValueError(f"{plan.study.name} is a search: what it tries next needs the results of all before")
    except ValueError as error:
        return replace(order, refused=str(error))
    return order


def _read(name: str, text: str) -> Order:
    """The order of a file; one that is none is refused, so that it is looked at once."""
    try:
        fields = json.loads(text)
        order = Order(**fields | {"arms": tuple(fields["arms"]), "order": name})
    except (ValueError, TypeError, KeyError) as error:
        return Order(do="pause", order=name, refused=f"the file {name} holds no order ({error})")
    if order.do not in Do.__args__:  # type: ignore[attr-defined]
        return replace(order, refused=f"there is no order {order.do!r}")
    return order


def _user() -> str:
    try:
        return getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())
