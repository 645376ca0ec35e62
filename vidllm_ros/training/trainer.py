# SPDX-License-Identifier: Apache-2.0
"""The loop: batches in, steps out, and a folder from which it goes on as if it had never stopped.

It knows nothing of the losses: a stage is a module whose forward gives a `StageOutput`.
Checkpoints are written beside their name and renamed; a signal asks for one and ends the run; a
loss that is not finite stops it with the batch saved. Next: stages.py for what is learnt,
export.py for what is shipped.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.tensorboard.writer import SummaryWriter

from vidllm_ros.training.optimizer import Optimizer, WeightAverage
from vidllm_ros.training.recipe import Recipe

CHECKPOINT = "checkpoint.pt"
SMOOTHING = 0.95


@dataclass(frozen=True)
class StageOutput:
    """What a step gives.

    Attributes:
        loss: scalar to minimise.
        terms: named scalars for the log.
        scenes: how many scenes were seen.
    """

    loss: Tensor
    terms: dict[str, float]
    scenes: int


class Stage(Protocol):
    """A module to train: `forward(batch, progress)`; `model` is what is shipped of it."""

    model: nn.Module

    def __call__(self, batch: Any, progress: float) -> StageOutput: ...


class NotFiniteError(RuntimeError):
    """The loss or its gradient is not a number; the batch has been saved."""


@dataclass
class RunState:
    """Where a run is."""

    step: int = 0
    scenes: int = 0
    seconds: float = 0.0
    smooth: dict[str, float] = field(default_factory=dict)


class From(Sampler[int]):
    """Batch numbers from the first that has not been seen."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)


def write_atomically(path: Path, content: Any) -> None:
    """`torch.save` beside `path`, then rename: a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(content, beside)
    os.replace(beside, path)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def leave_signals_to_parent(worker: int) -> None:
    """Ignore a signal sent to the whole group: the parent saves first and ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class Trainer:
    """Trains one stage after a recipe, in a folder.

    Args:
        recipe: what to do.
        stage: module to train.
        batches: indexed by batch number.
        folder: takes checkpoint, logs and, on failure, the batch that failed.
    """

    def __init__(
        self, recipe: Recipe, stage: nn.Module, batches: Dataset[Any], folder: str | Path
    ) -> None:
        self.recipe = recipe
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            mixed_precision=recipe.precision, cpu=not torch.cuda.is_available()
        )
        device = self.accelerator.device
        stage = stage.to(device)
        self.plain_stage = stage
        self.stage: nn.Module = stage
        if self.is_distributed:
            self.stage = DistributedDataParallel(
                stage,
                device_ids=[device] if device.type == "cuda" else None,
                find_unused_parameters=True,
            )
        self.optimizer = Optimizer(stage, recipe.optimizer)
        average = recipe.optimizer.ema
        self.average = WeightAverage(self.model, average) if average else None
        self.batches = batches
        self.state = RunState()
        self.stop_requested = False

    @property
    def is_distributed(self) -> bool:
        return self.accelerator.num_processes > 1

    @property
    def model(self) -> nn.Module:
        model = self.plain_stage.model
        if not isinstance(model, nn.Module):
            raise TypeError(f"stage.model: expected a module, got {type(model).__name__}")
        return model

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by time, whichever is further."""
        by_steps = self.state.step / self.recipe.total_steps
        limit = self.recipe.max_minutes * 60.0
        return min(max(by_steps, self.state.seconds / limit if limit else 0.0), 1.0)

    def run(self, steps: int | None = None) -> RunState:
        """Train until the schedule ends, a signal comes, or `steps` more have been made."""
        last = self.recipe.total_steps
        if steps is not None:
            last = min(last, self.state.step + steps)
        previous = {
            s: signal.signal(s, self._request_stop) for s in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            with SummaryWriter(str(self.folder / "tensorboard")) as writer, self._bar() as bar:
                task = bar.add_task(
                    self.recipe.name, total=last, completed=self.state.step, loss=""
                )
                self._loop(last, writer, bar, task)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        self.save()
        self.accelerator.wait_for_everyone()
        return self.state

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            disable=not self.accelerator.is_main_process,
        )

    def _loader(self, last: int) -> DataLoader[Any]:
        workers = self.recipe.data.workers
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=From(self.state.step, last),
            num_workers=workers,
            worker_init_fn=leave_signals_to_parent,
            prefetch_factor=4 if workers else None,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # else every start would draw from the run's own
        )

    def _loop(self, last: int, writer: SummaryWriter, bar: Progress, task: TaskID) -> None:
        saved = time.monotonic()
        waited = time.monotonic()
        for batch in self._loader(last):
            started = time.monotonic()
            terms = self._step(batch.to(self.accelerator.device))
            finished = time.monotonic()
            self.state.seconds += finished - waited
            terms["data_s"], terms["step_s"] = started - waited, finished - started
            self._log(terms, writer)
            bar.update(task, completed=self.state.step, loss=f"loss {terms['loss']:.3f}")
            waited = finished
            self._agree()
            if finished - saved > self.recipe.checkpoint_minutes * 60.0:
                self.save()
                saved = time.monotonic()
            if self.stop_requested or self.progress >= 1.0:
                break

    def _step(self, batch: Any) -> dict[str, float]:
        with self.accelerator.autocast():
            output = self.stage(batch, self.progress)
        loss = float(output.loss.detach())
        if not math.isfinite(loss):
            self._refuse(batch, output.terms, f"the loss is {loss}")
        self.accelerator.backward(output.loss)
        norm, factor = self.optimizer.step(self.progress)
        if not math.isfinite(norm):
            self._refuse(batch, output.terms, f"the gradient's norm is {norm}")
        if self.average is not None:
            self.average.update(self.model)
        self.state.step += 1
        self.state.scenes += output.scenes * self.accelerator.num_processes
        return {"loss": loss, "gradient_norm": norm, "lr_factor": factor, **output.terms}

    def _agree(self) -> None:
        """Let the first process's clock, and anyone's wish to stop, be everyone's."""
        if not self.is_distributed:
            return
        clock = torch.tensor([self.state.seconds], device=self.accelerator.device)
        torch.distributed.broadcast(clock, 0)
        wish = torch.tensor([float(self.stop_requested)], device=self.accelerator.device)
        torch.distributed.all_reduce(wish, torch.distributed.ReduceOp.MAX)
        self.state.seconds = float(clock)
        self.stop_requested = bool(wish)

    def _refuse(self, batch: Any, terms: dict[str, float], reason: str) -> None:
        path = self.folder / f"not_finite_step{self.state.step}.pt"
        write_atomically(path, {"batch": batch, "terms": terms, "step": self.state.step})
        raise NotFiniteError(
            f"step {self.state.step}: {reason}; the batch is in {path}, "
            "the last checkpoint is whole"
        )

    def _log(self, terms: dict[str, float], writer: SummaryWriter) -> None:
        smooth = self.state.smooth
        for name, value in terms.items():
            old = smooth.get(name, value)
            smooth[name] = SMOOTHING * old + (1 - SMOOTHING) * value
        step = self.state.step
        if not self.accelerator.is_main_process or step % self.recipe.log_every:
            return
        row = {
            "step": step,
            "scenes": self.state.scenes,
            "seconds": round(self.state.seconds, 1),
            "progress": round(self.progress, 4),
            **{name: round(value, 5) for name, value in sorted(smooth.items())},
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in terms.items():
            writer.add_scalar(name, value, step)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True

    def save(self) -> Path:
        """Write the checkpoint; only the main process does."""
        path = self.folder / CHECKPOINT
        if self.accelerator.is_main_process:
            write_atomically(
                path,
                {
                    "recipe": self.recipe.as_dict(),
                    "stage": self.plain_stage.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "average": None if self.average is None else self.average.state_dict(),
                    "state": vars(self.state),
                    "random": {
                        "torch": torch.get_rng_state(),
                        "cuda": torch.cuda.get_rng_state_all()
                        if torch.cuda.is_available()
                        else [],
                        "numpy": np.random.get_state(),
                        "python": random.getstate(),
                    },
                },
            )
        return path

    def load(self, path: str | Path | None = None) -> bool:
        """Go on from a checkpoint; return False where there is none."""
        file = self.folder / CHECKPOINT if path is None else Path(path)
        if not file.is_file():
            return False
        saved = torch.load(file, map_location="cpu", weights_only=False)
        self.plain_stage.load_state_dict(saved["stage"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None and saved["average"] is not None:
            self.average.load_state_dict(saved["average"])
        self.state = RunState(**saved["state"])
        torch.set_rng_state(saved["random"]["torch"])
        if saved["random"]["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["random"]["cuda"])
        np.random.set_state(saved["random"]["numpy"])
        random.setstate(saved["random"]["python"])
        return True
