"""Which trial a free worker gets, and what follows from what workers say: the log first, then everything else.

Knows neither Ray nor processes: an executor takes hands here and brings messages back.
"""

import contextlib
import math
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from ablate import mirror, segments, watchdog
from ablate.blame import Avoided, Blame
from ablate.events import Event
from ablate.executors import Lost, Said, Shut, Slots, Unavailable
from ablate.failures import KEEPING, POLICY, Cause, Kernel, loss_of
from ablate.home import Home
from ablate.lock import holder
from ablate.log import Entry, Log, Record, ledger
from ablate.masking import redact
from ablate.messages import Adopted, Back, Began, Hand, Measured, Progress
from ablate.packing import Footprint, Packing
from ablate.plan import Plan, Trial
from ablate.schedule import Scheduler
from ablate.steering import NOTHING, Helm, Steered, extended, withheld
from ablate.store import StoreError

HAND_S = 1.0
"""Trials measured to be shorter than half of this are handed out several at a time, about so many seconds of them."""
LEAST_S = 0.002
"""What a trial takes at least, for that."""
LOGGED_S = 0.5
"""By then a driver has logged an end that its worker noted."""
SAY_S = 1.0
"""Epochs of a running trial reach the log at most so often; its end repeats them all."""


class Dispatch:
    """One driver's desk: it alone writes the log."""

    def __init__(
        self,
        plan: Plan,
        home: Home,
        wanted: tuple[str, ...],
        watch: Callable[[Event], None],
        *,
        retries: int,
        where: str,
        grow: Callable[[Plan], tuple[Plan, tuple[str, ...]] | None] = lambda _plan: None,
        launch: Callable[[Plan], tuple[str, ...]] = lambda _plan: (),
        steered: Steered = NOTHING,
        pack: bool = False,
    ) -> None:
        """A desk for the trials of the plan that are wanted.

        Args:
            plan: the sweep.
            home: where it is kept.
            wanted: ids to run.
            watch: hears of every event.
            retries: how often a trial is tried again.
            where: host and device, for the log.
            grow: asked when all is done; a larger plan and what is wanted of it, or None.
            launch: told of a plan that an order made larger; says what is wanted of it.
            steered: what the orders so far come to.
            pack: trials share GPUs.
        """
        self.home, self.watch, self.grow, self.launch = home, watch, grow, launch
        self.helm = Helm(home, plan.sweep, steered)
        self.sweep, self.sizes = plan.sweep, _sizes(home, plan.sweep)
        self.where = f"{socket.gethostname()}/{where}"
        self.attempts: dict[str, int] = {}
        self.packing = Packing(on=pack)
        self.hands: dict[int, dict[str, None]] = {}
        """Number of a hand -> its trials that have not ended."""
        self.busy: list[str] = []
        """Trials that another sweep's workers hold."""
        self._plan(plan, wanted)
        self.begun: dict[str, float] = {}
        """Running trial -> when its epochs last reached the log."""
        self.unsaid: dict[str, list[Mapping[str, Any]]] = {}
        self.settled: list[Record] = []
        self.blame, self.kernel = Blame(retries), Kernel()
        self.stop = ""
        """Why nothing can be trained any more."""
        self.alone: set[str] = set()
        """Trials of a lost hand: from then on each is a hand of its own, so that the next loss has a cause."""
        self.pace = Pace()
        self.over: set[str] = set()
        """Trials that ended here."""
        self.handed = 0
        self.slots = 1
        self.log: Log

    def _plan(self, plan: Plan, wanted: tuple[str, ...]) -> None:
        """From now on it is this plan's trials that are handed out."""
        self.plan, self.entries = plan, ledger(self.home)
        finished = {ident: entry.record for ident, entry in self.entries.items() if entry.record is not None}
        out = {*self.busy, *(ident for hand in self.hands.values() for ident in hand)}
        self.scheduler = Scheduler(plan, finished, wanted, out)
        self.scheduler.withhold(*withheld(plan, self.helm.steered.arms))
        self.trials = {trial.id: trial for trial in plan.trials}
        self.packing.know(self.trials)
        self.attempts |= {ident: self._entry(ident).attempts for ident in wanted if ident not in out}

    def open(self, log: Log, slots: int) -> None:
        """From now on hands may be taken, so many at a time."""
        self.log, self.slots = log, max(1, slots)
        if self.helm.steered.arms:
            self.watch(Event("ordered", why=self.helm.steered.text, steered=self.helm.steered.arms))

    @property
    def left(self) -> int:
        """Trials that have not ended."""
        return self.scheduler.left

    def take(self) -> Hand | None:
        """The next hand for a free worker; one without trials: later; None: nothing is left."""
        self._steer()
        if not self.left:
            return None
        trials = self._deal()
        if not trials and self.busy:
            self._ask_busy()
            trials = self._deal()
        for trial in trials:
            self.attempts[trial.id] += 1
            if self._entry(trial.id).record is not None:
                mirror.Folder(self.home, trial.id).forget_end()
        self.handed += 1
        if trials:
            self.hands[self.handed] = {trial.id: None for trial in trials}
            self._begin(trials[0].id)
        idents = tuple(trial.id for trial in trials)
        dealt = tuple((trial, self.attempts[trial.id]) for trial in trials)
        avoid, (gpus, probe) = self.blame.avoid(idents), self.packing.give(idents)
        token = self.helm.token(self.handed)
        behind = self.scheduler.waiting // max(1, len(trials))
        return Hand(self.handed, dealt, HAND_S, gpus=gpus, avoid=avoid, token=token, probe=probe, behind=behind)

    def _deal(self) -> list[Trial]:
        size = self.pace.size(self.left, self.slots)
        trials: list[Trial] = []
        while len(trials) < size and (trial := self.scheduler.next()) is not None:
            if trial.id in self.alone and trials:
                self.scheduler.again(trial.id)
                break
            trials.append(trial)
            if trial.id in self.alone:
                break
        return trials

    def _ask_busy(self) -> None:
        """What another sweep's driver finished is finished here; the rest is tried again."""
        with contextlib.suppress(StoreError):
            segments.pull(self.home)
        now = ledger(self.home)
        for ident in self.busy:
            record = now.get(ident, Entry()).record
            if record is not None and record != self._entry(ident).record:
                self.entries[ident] = now[ident]
                self._settle(record)
            else:
                self.scheduler.again(ident)
        self.busy.clear()
        self._conclude()

    def hear(self, messages: Iterable[Said]) -> None:
        """Acts on messages that came together; their lines go to the disk together.

        Raises:
            Unavailable: a full disk ends the sweep.
        """
        self._steer()
        for message in messages:
            if isinstance(message, Record):
                self._end(message)
            elif isinstance(message, Adopted):
                self._adopt(message.record)
            elif isinstance(message, Progress):
                self._progress(message)
            elif isinstance(message, Began):
                self._begun(message)
            elif isinstance(message, Back):
                self._back(message)
            elif isinstance(message, Measured):
                self._measured(message)
            elif isinstance(message, Slots):
                self.slots = max(1, message.count)
                self.log.append("slots", durable=False, count=message.count, hosts=message.hosts)
                if message.why:
                    self.watch(Event("waiting", why=f"for a node that can take a trial: {message.why}"))
            elif isinstance(message, Shut):
                self.log.append("avoided", durable=False, node=message.node, host=message.host, why=message.why)
                self.watch(Event("avoided", why=f"{message.host} gets no trials: {message.why}"))
            else:
                self._lost(message)
        self._conclude()
        if self.stop:
            raise Unavailable(self.stop)

    def _begun(self, began: Began) -> None:
        self.blame.began(began.trial, began.node, began.host)
        self.packing.began(began.trial, began.host, began.gpus)
        self._begin(began.trial)

    def _measured(self, found: Measured) -> None:
        peak, total = found.peak_bytes, found.total_bytes
        share = self.packing.measured(found.trial, Footprint(peak, total))
        self.log.append("measured", durable=False, trial=found.trial, peak=peak, total=total, share=share)

    def _begin(self, ident: str) -> None:
        if ident not in self.begun:
            self.begun[ident] = time.monotonic()
            self.log.append("started", durable=False, trial=ident, attempt=self.attempts[ident], where=self.where)
            self.watch(Event("started", ident, self.attempts[ident]))

    def _progress(self, progress: Progress) -> None:
        ident = progress.trial
        unsaid = self.unsaid.setdefault(ident, [])
        unsaid.extend(progress.epochs)
        if time.monotonic() - self.begun[ident] >= SAY_S:
            self.log.append("epochs", durable=False, trial=ident, epochs=unsaid)
            self.begun[ident], self.unsaid[ident] = time.monotonic(), []
        for epoch in progress.epochs:
            self.watch(Event("epoch", ident, self.attempts[ident], epoch["epoch"], epoch["metrics"]))

    def _end(self, record: Record) -> None:
        ident = record.trial
        self._begin(ident)
        self._put_down(ident)
        if record.state == "done":
            self._avoided(self.blame.done(ident))
        else:
            cause = cast(Cause, record.reason)
            if cause == "out_of_memory" and self.packing.crowded(ident):
                cause = "crowded"
            if self._again(ident, cause, f"{cause.replace('_', ' ')}: {_last_line(record.error)}"):
                return
        self.pace.note(record.seconds)
        self._settle(self.packing.signed(record))

    def _again(self, ident: str, cause: Cause, why: str) -> bool:
        """Whether the trial that failed is back in the queue; one that could not be kept is, for another driver."""
        again, avoided = self.blame.failed(ident, cause)
        self._avoided(avoided)
        if cause in KEEPING and not again:
            self.stop = (
                f"{self.trials[ident].label}: {why.removesuffix('.')}. {self._unkept(cause)} What finished is kept."
            )
        if again or cause in KEEPING:
            self._put_down(ident)
            self.log.append("lost", trial=ident, attempt=self.attempts[ident], why=why, cause=cause)
            self.scheduler.again(ident)
            self.watch(Event("lost", ident, self.attempts[ident], why=why))
        return again or cause in KEEPING

    def _unkept(self, cause: Cause) -> str:
        """What is wrong with where trials are kept."""
        if cause == "store":
            return f"No node can keep anything in {self.home.name}."
        root = self.home.root
        return f"The disk is full or can no longer be written (the home is {root}): make room or mend it."

    def _avoided(self, nodes: Iterable[Avoided]) -> None:
        for found in nodes:
            self.log.append("avoided", node=found.node, host=found.host, why=found.why)
            self.watch(Event("avoided", why=f"{found.host or found.node} gets no more trials: {found.why}"))

    def _adopt(self, record: Record) -> None:
        """Takes an end over that no log had when this driver started; a living driver may have logged it since."""
        self._begin(record.trial)
        self._put_down(record.trial)
        if _driven(self.home, self.sweep):
            time.sleep(LOGGED_S)
        if _sizes(self.home, self.sweep) != self.sizes:
            self.sizes = _sizes(self.home, self.sweep)
            self.entries |= ledger(self.home)
        self._settle(record)

    def _settle(self, record: Record) -> None:
        """Writes the trial's end; what follows from it waits until the line is on disk."""
        known = self._entry(record.trial).record
        if known is None or not _same_numbers(known, record):
            self.log.append("ended", durable=False, trial=record.trial, record=record)
        self.settled.append(record)

    def _conclude(self) -> None:
        """Tells of the ends written since the last time, and ends those that needed a failed one."""
        while self.settled:
            self.log.sync()
            settled, self.settled = self.settled, []
            for record in settled:
                self.over.add(record.trial)
                hopeless = self.scheduler.tell(record)
                self.watch(Event("ended", record.trial, record.attempts, record=record))
                for ident in hopeless:
                    why = f"needed trial {record.trial} failed: {record.reason}"
                    self._settle(_failed(self.trials[ident], "need", why, self.attempts[ident]))
        if not self.left and (more := self.grow(self.plan)) is not None:
            self._plan(*more)
            self.watch(Event("grown", plan=self.plan))

    def _steer(self) -> None:
        """Takes up what was ordered since it last looked."""
        orders = self.helm.orders(self.plan)
        for order in orders:
            self.log.append("ordered", **order.line)
            larger = self.plan if order.refused else extended(self.plan, order)
            if larger is not self.plan:
                self._plan(larger, self.launch(larger))
                self.watch(Event("grown", plan=larger))
            self.watch(Event("ordered", why=order.text, steered=self.helm.steered.arms))
        if orders:
            off = withheld(self.plan, self.helm.steered.arms)
            self.scheduler.withhold(*off)
            self.helm.call_back({i: number for number, hand in self.hands.items() for i in hand}, off[0] | off[1])

    def _back(self, back: Back) -> None:
        for ident in back.trials:
            begun = ident in self.begun
            self._put_down(ident)
            if back.stopped and begun:
                self.log.append("stopped", trial=ident, attempt=self.attempts[ident])
                self.watch(Event("stopped", ident, self.attempts[ident]))
            else:
                self.attempts[ident] -= 1
            if back.busy:
                self.busy.append(ident)
            else:
                self.scheduler.again(ident)

    def _lost(self, lost: Lost) -> None:
        """What is lost with its worker, by cause; a trial that had not begun lost nothing."""
        if lost.hand is None and not self.hands:  # nothing is lost, and nobody else would say so
            self.watch(Event("waiting", why=redact(lost.why)))
        here = self.blame.host(lost.node) in ("", socket.gethostname())
        killed = self.kernel.killed() and here
        for number in list(self.hands) if lost.hand is None else [lost.hand]:
            idents = list(self.hands.pop(number, ()))
            whole, others = lost.hand is None, len(idents) > 1
            cause = loss_of(lost.why, whole_cluster=whole, node_died=lost.node_died, others=others, killed=killed)
            for ident in idents:
                self._lose(ident, cause, lost)
            self.alone.update(idents)

    def _lose(self, ident: str, cause: Cause, lost: Lost) -> None:
        if ident not in self.begun:
            self.attempts[ident] -= 1
            self.scheduler.again(ident)
            return
        folder, attempt = mirror.Folder(self.home, ident), self.attempts[ident]
        folder.bring(watchdog.stacks(folder.path, attempt).name)
        hung = watchdog.found(folder.path, attempt)
        cause = "hung" if hung else cause
        self.blame.began(ident, lost.node)
        why = redact(lost.why)
        if not self._again(ident, cause, _last_line(hung) if hung else why):
            self._put_down(ident)
            self._settle(_failed(self.trials[ident], POLICY[cause].recorded, hung or why, attempt))

    def _put_down(self, ident: str) -> None:
        """The trial runs no longer, for whatever reason."""
        self.helm.back(ident)
        self.begun.pop(ident, None)
        self.packing.left(ident)
        self.unsaid.pop(ident, None)
        for number, hand in list(self.hands.items()):
            hand.pop(ident, None)
            if not hand:
                del self.hands[number]

    def _entry(self, ident: str) -> Entry:
        return self.entries.get(ident, Entry())


class Pace:
    """How long trials take here, and so how many make a hand."""

    def __init__(self) -> None:
        self.mean_s: float | None = None

    def note(self, seconds: float) -> None:
        """One more trial took so long; recent ones count most."""
        self.mean_s = seconds if self.mean_s is None else 0.7 * self.mean_s + 0.3 * seconds

    def size(self, left: int, slots: int) -> int:
        """One, unless trials are short; never so many that another worker would idle at the end."""
        if self.mean_s is None or self.mean_s > HAND_S / 2:
            return 1
        fair = math.ceil(left / (2 * slots))
        return max(1, min(fair, int(HAND_S / max(self.mean_s, LEAST_S))))


def _sizes(home: Home, sweep: str) -> dict[str, int]:
    """Bytes in the logs of the home's other sweeps."""
    return {path.name: path.stat().st_size for path in home.logs.glob("*.jsonl") if path != home.log(sweep)}


def _driven(home: Home, sweep: str) -> bool:
    """Whether another sweep of the home has a driver on this node now."""
    return any(holder(path) is not None for path in home.logs.glob("*.lock") if path != home.lock(sweep))


def _same_numbers(one: Record, other: Record) -> bool:
    """Whether both are done, by the same code, with the same metrics."""

    def numbers(record: Record) -> list[Any]:
        return [(epoch["epoch"], dict(epoch["metrics"])) for epoch in record.epochs]

    code = one.provenance.get("code_digest") == other.provenance.get("code_digest")
    return one.state == other.state == "done" and code and numbers(one) == numbers(other)


def _last_line(error: str) -> str:
    return error.strip().rpartition("\n")[2]


def _failed(trial: Trial, reason: str, why: str, attempts: int) -> Record:
    """The end of a trial that no worker could report."""
    return Record(
        trial=trial.id,
        method=trial.method,
        config=trial.config,
        data=trial.data,
        seed=trial.seed,
        state="failed",
        reason=reason,
        error=why,
        attempts=attempts,
        ended=time.time(),
        host=socket.gethostname(),
    )
