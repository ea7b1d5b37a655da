"""The processes that train one cell together, each on its share of every batch's rows (`torchrun`).

Gradients are summed here by hand, once per update, and not by DistributedDataParallel, which hooks into one backward
pass per forward call: a segment may be called several times per update, with and without gradient, and the puzzle
table's gradient is sparse. Losses are divided by the whole batch, so summing is all there is to do.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from harness.errors import BenchError

PATIENCE = datetime.timedelta(days=1)
"""How long a rank waits for the others. Rank 0 may score a large test set meanwhile; that a rank is dead is noticed by
its closed connections and by torchrun, within seconds."""


class RankLost(BenchError):
    """Another rank is gone or no longer agrees. The cell is not to blame: it goes on from its checkpoint."""


def join(device: str) -> Ranks:
    """Meet the other processes that torchrun started."""
    # what one rank tells the others stays off the GPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size())


@dataclass(frozen=True)
class Ranks:
    """This process among `size` that do the same. Every method must be called by all of them, in the same order.

    Alone, everything is what it would be without this class. Raises RankLost where the others don't answer.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that evaluates, decides and writes."""
        return self.rank == 0

    def own(self, rows: int) -> slice:
        """This rank's rows of a batch."""
        share = rows // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            _meet(lambda: dist.all_reduce(tensor))
        return tensor

    def joined(self, tensor: Tensor) -> Tensor:
        """The rows of all ranks, in order; each has as many."""
        if self.size == 1:
            return tensor
        mine = tensor.contiguous()
        flat = mine.view(-1).view(torch.uint8)  # bytes: backends differ in the types that they know
        whole = torch.empty(self.size * flat.numel(), dtype=torch.uint8, device=flat.device)
        _meet(lambda: dist.all_gather_into_tensor(whole, flat))
        return whole.view(tensor.dtype).view(self.size * len(tensor), *tensor.shape[1:])

    def sum_gradients(self, dense: Sequence[Tensor], sparse: Sequence[Tensor]) -> None:
        """Give every rank the gradient of the whole batch: dense ones summed in one message, sparse ones joined in the
        order of the rows, as one process would have them."""
        if self.size == 1:
            return
        grads = [p.grad for p in dense if p.grad is not None]
        if grads:
            flat = torch.cat([g.reshape(-1) for g in grads])
            self.sum(flat)
            parts = flat.split([g.numel() for g in grads])
            torch._foreach_copy_(grads, [part.view_as(g) for part, g in zip(parts, grads, strict=True)])
        for p in sparse:
            if p.grad is not None:
                ids, rows = p.grad._indices()[0], p.grad._values()
                p.grad = torch.sparse_coo_tensor(
                    self.joined(ids)[None], self.joined(rows), p.shape, check_invariants=False
                )

    def gathered(self, thing: Any) -> list[Any]:
        """One small object of each rank, on all of them."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        _meet(lambda: dist.all_gather_object(found, thing))
        return found

    def told(self, thing: Any) -> Any:
        """What rank 0 says."""
        if self.size == 1:
            return thing
        box = [thing]
        _meet(lambda: dist.broadcast_object_list(box, src=0, device=torch.device("cpu")))
        return box[0]

    def lead(self, work: Callable[[], Any]) -> Any:
        """Rank 0 does it while the others wait; all get what comes of it, be it an exception."""
        if self.size == 1:
            return work()
        found, error = None, None
        if self.leads:
            try:
                found = work()
            except Exception as raised:
                error = raised
        found, kind = self.told((found, None if error is None else (type(error).__name__, str(error))))
        if error is not None:
            error.add_note(_SHARED)
            raise error
        if kind is not None:
            raise Failed(*kind)
        return found

    def part(self) -> None:
        """The last thing that the ranks do together."""
        if self.size > 1:
            dist.destroy_process_group()

    def agree(self, what: str, tensors: Sequence[Tensor]) -> None:
        """Check that the ranks hold the same numbers: that none has drifted away unseen. Synchronises."""
        if self.size > 1:
            sums = [float(tensor.detach().sum(dtype=torch.float64)) for tensor in tensors]
            if any(other != sums and str(other) != str(sums) for other in self.gathered(sums)):  # as text: NaN is NaN
                raise RankLost(f"the ranks no longer hold the same {what}")


class Failed(Exception):
    """What rank 0 was doing raised an exception of this name; it tells of it itself."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


ALONE = Ranks()

_SHARED = "all ranks know of this"


def shared(error: Exception) -> bool:
    """Whether an exception came out of `lead`, so that the ranks still go in step."""
    return _SHARED in getattr(error, "__notes__", ())


def _meet(collective: Callable[[], Any]) -> None:
    try:
        collective()
    except RuntimeError as error:  # torch's own subclasses among them
        raise RankLost(f"another rank is gone: {str(error).splitlines()[0]}") from error
