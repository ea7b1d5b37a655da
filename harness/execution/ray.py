"""Cells onto a Ray cluster: the pool of local.py with its workers on the cluster's nodes, and lost nodes replaced.

A thread per worker stands between the pool and the worker's actor (relay.py), so that the pool hears a worker over a
pipe wherever it runs. A worker is given a cell once the cluster has room for it; one of a lost node is hired anew, and
its cell goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.cell import Cell
from harness.data import DataSet
from harness.errors import UserError
from harness.execution.local import THREAD_VARIABLES, WORKER_STOP_SECONDS, Pool, Worker, cores
from harness.execution.parcel import pack, unpack
from harness.execution.relay import CHECKPOINTS, KILL, Place, Relay, Setup
from harness.execution.worker import Ending, Job, machine_fault
from harness.files import try_hold, write_atomically, write_text
from harness.record import LOCK, RECORD, recorded
from harness.sandbox import shared
from harness.training.device import DETERMINISTIC_VARIABLE

ADDRESS_VARIABLE = "RAY_ADDRESS"
REQUIREMENTS = "requirements-ray.txt"
OBJECT_STORE_BYTES = 200 * 2**20  # of a cluster of our own, which shares its disk, so that next to nothing is carried
TURN_SECONDS = 0.2  # a node waits so long for messages of its worker before it asks for ours
KEPT = 2  # checkpoints
MOST_LOSSES = 3
"""A cell whose node is lost more often is recorded as failed: it may be what brings nodes down."""
ANSWER_SECONDS = 20.0
UNBORN = 3  # workers that could not be started, one after the other, before the run gives up
PATIENCE_SECONDS = 60.0  # without room for any worker before the user is told, each time
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray keep 127.0.0.1 as the address of a cluster of our own; otherwise its ports listen to the whole network."""


def check_installed() -> None:
    """UserError, with the remedy, where ray is not there."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"--executor ray: ray is not installed; pip install -r {REQUIREMENTS}")


class Remote:
    """A worker on a node, as the pool sees it: a process at the other end of a pipe."""

    def __init__(self, pool: RayPool, connection: Connection) -> None:
        self.pool, self.connection = pool, connection
        self.actor: Any = pool.actors.remote(pool.setup)
        self.place: Place | None = None  # None until the cluster has room
        self.exitcode: int | None = None
        self.lost = ""  # why nothing is heard of it any more
        self.away = False  # since its node, or the way there, is gone
        self.run_folder: Path | None = None  # ours, where the node has another
        self.fault: Ending | None = None  # of our disk
        self.data_sent: set[str] = set()
        self.to_kill = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def is_alive(self) -> bool:
        return self.thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        self.thread.join(timeout)

    def kill(self) -> None:
        self.to_kill.set()
        if self.place is None:
            self._end_actor()

    def _serve(self) -> None:
        import ray

        try:
            self.place = ray.get(self.actor.place.remote())
            while self.exitcode is None:
                for message in ray.get(self.actor.exchange.remote(self._words(), TURN_SECONDS)):
                    self._pass_on(message)
        except Exception as error:
            self.away = isinstance(error, ray.exceptions.RayError) and not isinstance(
                error, ray.exceptions.RayTaskError
            )
            self.lost = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[-1]}"
        finally:
            with contextlib.suppress(Exception):  # a node that is gone has nothing to clear away
                ray.get(self.actor.close.remote(), timeout=0 if self.away else WORKER_STOP_SECONDS)
            self._end_actor()
            self.connection.close()

    def _end_actor(self) -> None:
        import ray

        with contextlib.suppress(Exception):
            if ray.is_initialized():  # otherwise Ray would start a cluster to ask
                ray.kill(self.actor)

    def _words(self) -> list[bytes]:
        """What the pool has to say by now."""
        if self.to_kill.is_set():
            return [KILL]
        words = []
        while self.connection.poll():
            message = self.connection.recv()
            words.append(pickle.dumps(self._addressed(message) if isinstance(message, Job) else message))
        return words

    def _addressed(self, job: Job) -> Job:
        """The job as the node can carry it out: with run folder and data brought there if it doesn't have ours."""
        import ray

        assert self.place is not None
        if self.place.shares:  # by whole paths: the node's processes stand where Ray was started
            return replace(job, folder=job.folder.resolve(), data=replace(job.data, path=job.data.path.resolve()))
        scratch = self.place.scratch
        self.run_folder, self.fault = job.folder, None
        theirs, data = scratch / "runs" / job.folder.name, scratch / "data" / job.data.path.name
        parcel = None if data.name in self.data_sent else self.pool.parcel_of(job.data)
        ray.get(self.actor.take.remote(theirs, pack(job.folder, leave=[RECORD]), data, parcel))
        self.data_sent.add(data.name)
        return replace(job, folder=theirs, data=replace(job.data, path=data), stamp=None)

    def _pass_on(self, message: tuple[Any, ...]) -> None:
        """Take what is for our disk; the rest is for the pool."""
        kind = message[0]
        if kind == "exited":
            self.exitcode = message[1]
        elif kind == "checkpoint" and self.run_folder is not None:
            _, name, content = message
            with contextlib.suppress(OSError):  # as on any full disk, it costs that checkpoint
                write_atomically(self.run_folder / name, lambda file: file.write(content))
                for old in sorted(self.run_folder.glob(CHECKPOINTS), reverse=True)[KEPT:]:
                    old.unlink()
        elif kind == "files" and self.run_folder is not None:
            try:
                names = unpack(message[1], self.run_folder, last=RECORD)
                for path in self.run_folder.glob(CHECKPOINTS):
                    if path.name not in names:
                        path.unlink()
            except OSError as error:
                self.fault = machine_fault(error)
            self.run_folder = None
        elif kind == "done":
            self.connection.send((kind, self.fault or message[1]))
        else:
            self.connection.send(message)


@dataclass
class RayWorker(Worker):
    process: Remote
    held: contextlib.ExitStack | None = None  # the cell's lock, where the node can't hold it

    @property
    def placed(self) -> bool:
        return self.process.place is not None


class RayPool(Pool):
    """Workers on a Ray cluster: the one at RAY_ADDRESS, else one of this machine, started and stopped with the run."""

    gpus_per_cell = 1.0

    def _open(self, jobs: int | None) -> None:
        self.kept_handler = signal.getsignal(signal.SIGTERM)  # Ray sets its own
        self.own_files: Path | None = None
        self.token = self.folder / f".share-{uuid.uuid4().hex}"
        self.losses: Counter[str] = Counter()
        self.unborn, self.room_seen = 0, time.monotonic()
        self.parcels: dict[str, Any] = {}
        self.said: set[Place | str] = set()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # no call of ours starts a cluster by the way
        address = os.environ.get(ADDRESS_VARIABLE)
        if address:
            _check_answers(address)
        else:
            os.environ.update(LOOPBACK)
        import ray

        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        threads = self.plan.suite.threads
        if address:
            try:
                ray.init(address=address, **quiet)
            except Exception as error:  # which kind depends on what answers there
                raise _no_cluster(address, error) from None
        else:
            self.own_files = Path(tempfile.mkdtemp(prefix="hrm-ray-"))
            ray.init(
                address="local",
                num_cpus=max(cores(), (jobs or 1) * threads),
                num_gpus=None if self.plan.device.value == "cuda" else 0,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self.own_files),
                **quiet,
            )
        write_text(self.token, self.token.name)
        variables = (*THREAD_VARIABLES, DETERMINISTIC_VARIABLE[0])
        self.setup = Setup(
            plugins=tuple((str(Path(path).resolve()), Path(path).read_bytes()) for path in self.plugins),
            sandbox=shared.asked(),
            environment={name: os.environ[name] for name in variables if name in os.environ},
            token=(str(self.token.resolve()), self.token.name),
        )
        self.gpus_each = self.gpus_per_cell if self.plan.device.value == "cuda" else 0
        self.actors = ray.remote(Relay).options(
            num_cpus=threads, num_gpus=self.gpus_each, max_restarts=0, scheduling_strategy="SPREAD"
        )
        nodes = [node for node in ray.nodes() if node["Alive"]]
        where = address or "this machine"
        if not self._room():
            raise UserError(
                f"Ray cluster at {where}: none of its {len(nodes)} nodes has {threads} CPU and {self.gpus_each:g} GPU, "
                "which a cell needs; see suite key threads and --gpus-per-cell"
            )
        self.monitor.say(f"Ray cluster at {where}: {len(nodes)} nodes with room for {self._room()} cells at a time")

    def _room(self) -> int:
        import ray

        total = 0
        for node in ray.nodes():
            if node["Alive"]:
                room = node["Resources"].get("CPU", 0) // self.plan.suite.threads
                if self.gpus_each:
                    room = min(room, int(node["Resources"].get("GPU", 0) / self.gpus_each + 1e-6))
                total += int(room)
        return total

    def _hire(self, number: int) -> RayWorker:
        ours, theirs = multiprocessing.Pipe()
        return RayWorker(Remote(self, theirs), ours, number, heard=time.monotonic())

    def _tend(self, w: Worker) -> None:
        """Say where workers run, and that none can; give up where none can be started."""
        assert isinstance(w, RayWorker)
        now, place = time.monotonic(), w.process.place
        if place is not None:
            self.unborn, self.room_seen = 0, now
            if place.host not in self.said:
                self.said.add(place.host)
                way = "share the results folder" if place.shares else "return their results by value"
                self.monitor.say(f"workers on {place.host} {way}")
        elif not w.process.is_alive() and not w.spent:
            w.spent = True
            self.unborn += 1
            if self.unborn >= max(UNBORN, len(self.workers)):
                raise UserError(
                    f"no worker can be started on the Ray cluster ({w.process.lost}); every node needs this project "
                    f"at {Path(__file__).parents[2]}, and what it requires"
                )
        elif now - self.room_seen > PATIENCE_SECONDS:
            self.room_seen = now
            self.monitor.say(f"waiting for the cluster: no node has {self.plan.suite.threads} CPU free for a worker")

    def _give(self, w: Worker, cell: Cell) -> None:
        """Hold the cell's lock for a node that can't, since other commands on this folder look at it."""
        assert isinstance(w, RayWorker) and w.process.place is not None
        if not w.process.place.shares:
            folder, held = self.folder / cell.run_folder, contextlib.ExitStack()
            free = held.enter_context(try_hold(folder / LOCK))
            if not free or recorded(folder).stamp not in (None, self.stamps[cell.id]):
                held.close()
                self.waiting.append(cell)
                return
            (folder / RECORD).unlink(missing_ok=True)
            w.held = held
        super()._give(w, cell)

    def _take_back(self, w: Worker) -> None:
        assert isinstance(w, RayWorker)
        if w.held is not None:
            w.held.close()
            w.held = None

    def _tried_again(self, w: Worker, cell: Cell) -> bool:
        assert isinstance(w, RayWorker)
        if w.reason or not w.process.lost:
            return False
        self.losses[cell.id] += 1
        times = self.losses[cell.id]
        if times > MOST_LOSSES or not w.process.away:
            w.reason = f"lost with its node {times} times" if w.process.away else "could not be carried to its node"
            w.reason += f": {w.process.lost}"
            return False
        self.monitor.say(
            f"{cell.name}: lost with its node; started again from its last checkpoint ({times} of {MOST_LOSSES})"
        )
        self.waiting.append(cell)
        return True

    def parcel_of(self, data: DataSet) -> Any:
        """Ray's reference to a data set's files, put there once."""
        import ray

        if data.path.name not in self.parcels:
            self.parcels[data.path.name] = ray.put(pack(data.path))
        return self.parcels[data.path.name]

    def _dismiss(self) -> None:
        for w in self.workers:
            if not w.placed:
                w.process.kill()
        super()._dismiss()
        for w in self.workers:
            w.process.join(WORKER_STOP_SECONDS)
            self._take_back(w)
        self.token.unlink(missing_ok=True)
        if "ray" in sys.modules:  # otherwise it never came so far
            sys.modules["ray"].shutdown()
        if self.own_files is not None:
            shutil.rmtree(self.own_files, ignore_errors=True)
        signal.signal(signal.SIGTERM, self.kept_handler)


def _check_answers(address: str) -> None:
    """UserError where nothing listens at host:port; Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> UserError:
    return UserError(
        f"{ADDRESS_VARIABLE}={address}: no Ray cluster answers there ({error}); start one with `ray start --head`, or "
        "unset the variable to have one on this machine for the time of the run"
    )


def pool(gpus_per_cell: float | None) -> type[Pool]:
    """What --executor ray runs cells with. UserError where ray is not installed, or a cell can't have so many GPUs."""
    check_installed()
    if gpus_per_cell is not None and not 0 < gpus_per_cell <= 1:
        raise UserError(f"--gpus-per-cell {gpus_per_cell:g}: must be above 0 and at most 1, since a cell uses one GPU")
    return type("RayPool", (RayPool,), {"gpus_per_cell": gpus_per_cell or 1.0})
