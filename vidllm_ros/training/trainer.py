# SPDX-License-Identifier: Apache-2.0
"""The loop: batches in, steps out, and a folder from which it goes on as if it had never stopped.

It knows nothing of the losses: a stage is a module whose forward gives a `StageOutput`.
Checkpoints are written beside their name and renamed; a signal asks for one and ends the run; a
loss that is not finite stops it with the batch saved. Next: stages.py for what is learnt,
export.py for what is shipped.
"""

from __future__ import annotations

import math
import random
import signal
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn
from torch.utils.data import Dataset

from vidllm_ros.training import sharding
from vidllm_ros.training.batch_stream import From, stream_batches
from vidllm_ros.training.checkpoint import CHECKPOINT, RunState, write_atomically
from vidllm_ros.training.optimizer import Optimizer, WeightAverage
from vidllm_ros.training.pending import Pending, stack_numbers, what_is_not_finite
from vidllm_ros.training.random_state import RandomState
from vidllm_ros.training.recipe import Recipe
from vidllm_ros.training.run_log import RunLog
from vidllm_ros.training.stage_output import Validator

SMOOTHING = 0.95
AGREE_EVERY = 5


@dataclass(frozen=True)
class Due:
    """What is to be done after a step: look at validation rooms, save, stop."""

    look: bool
    save: bool
    stop: bool


class NotFiniteError(RuntimeError):
    """The loss or its gradient is not a number; the batch has been saved."""


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Trainer:
    """Trains one stage after a recipe, in a folder.

    On a GPU a step's numbers are read while the next one runs, so that the GPU never waits for the
    log; a number that is not finite is then noticed one step late, and nothing is saved before.

    Args:
        recipe: what to do.
        stage: module to train.
        batches: indexed by batch number.
        folder: takes checkpoint, logs and, on failure, the batch that failed.
        validator: looks at the stage now and then, in the first process.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: nn.Module,
        batches: Dataset[Any],
        folder: str | Path,
        validator: Validator | None = None,
    ) -> None:
        self.recipe = recipe
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.accelerator = sharding.build_accelerator(recipe)
        self.plain_stage = stage
        self.scalars = sharding.scalar_names(stage)
        self.stage = sharding.distribute(recipe, self.accelerator, stage)
        self.optimizer = Optimizer(stage, recipe.optimizer)
        average = recipe.optimizer.ema
        self.average = WeightAverage(self.model, average) if average else None
        self.batches = batches
        self.validator = validator
        self.state = RunState()
        self.agreed_seconds = 0.0
        self.pending: deque[Pending] = deque()
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
        seconds = self.agreed_seconds if self.is_distributed else self.state.seconds
        return min(max(by_steps, seconds / limit if limit else 0.0), 1.0)

    def run(self, steps: int | None = None, minutes: float = 0.0) -> RunState:
        """Train until the schedule ends, a signal comes, or a limit of this call is reached.

        Args:
            steps: at most so many more; None leaves it to the schedule.
            minutes: stop, saved, after so much wall time of this call; 0 does not.
        """
        last = self.recipe.total_steps
        if steps is not None:
            last = min(last, self.state.step + steps)
        until = time.monotonic() + 60.0 * minutes if minutes else math.inf
        previous = {
            s: signal.signal(s, self._request_stop) for s in (signal.SIGTERM, signal.SIGINT)
        }
        log = RunLog(self.folder, self.accelerator.is_main_process)
        try:
            with log, self._bar() as bar:
                task = bar.add_task(
                    self.recipe.name, total=last, completed=self.state.step, loss=""
                )
                self._loop(last, until, log, bar, task)
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

    def _loop(self, last: int, until: float, log: RunLog, bar: Progress, task: TaskID) -> None:
        if self.progress >= 1.0:  # a run that has ended stays as it is
            return
        is_gpu = self.accelerator.device.type == "cuda"
        order, workers = From(self.state.step, last), self.recipe.data.workers
        saved = validated = waited = time.monotonic()
        with closing(stream_batches(self.batches, order, workers, is_gpu)) as stream:
            for batch in stream:
                started = time.monotonic()
                self._step(batch.to(self.accelerator.device), started - waited)
                self._settle(log, delay=int(is_gpu))
                loss = self.state.smooth.get("loss", math.nan)
                bar.update(task, completed=self.state.step, loss=f"loss {loss:.3f}")
                now = time.monotonic()
                self.state.seconds += now - waited
                due = self._agree(now - validated, now - saved, now > until)
                if due.look:
                    self._settle(log)
                    self._validate(log)
                    validated = time.monotonic()
                if due.save:
                    self._settle(log)
                    self.save()
                    saved = now
                waited = time.monotonic()
                self.state.seconds += waited - now
                if due.stop or self.progress >= 1.0:
                    break
        self._settle(log)
        if self.state.step >= self.recipe.total_steps or self.progress >= 1.0:
            self._validate(log)

    def _step(self, batch: Any, waited_s: float) -> None:
        """Learn from one batch; its numbers are settled later."""
        started, progress = time.monotonic(), self.progress
        with self.accelerator.autocast():
            output = self.stage(batch, progress)
        if output.loss.device.type == "cpu" and not math.isfinite(float(output.loss.detach())):
            self._refuse(self.state.step, batch, f"the loss is {float(output.loss.detach())}")
        self.accelerator.backward(output.loss)
        norm, factor = self.optimizer.step(progress)
        if self.average is not None:
            self.average.update(self.model)
        self.state.step += 1
        self.state.scenes += output.scenes * self.accelerator.num_processes
        names, numbers = stack_numbers(output.loss, norm, output.terms)
        if self.is_distributed:
            torch.distributed.all_reduce(numbers)
            numbers /= self.accelerator.num_processes
        measured = {
            "lr_factor": factor,
            "data_s": waited_s,
            "step_s": time.monotonic() - started,
        }
        self.pending.append(Pending(self._place(), batch, names, numbers, measured))

    def _place(self) -> dict[str, float]:
        return {
            "step": self.state.step,
            "scenes": self.state.scenes,
            "seconds": round(self.state.seconds, 1),
            "progress": round(self.progress, 4),
        }

    def _settle(self, log: RunLog, delay: int = 0) -> None:
        """Read the numbers of all but the newest `delay` steps, check and log them."""
        while len(self.pending) > delay:
            done = self.pending.popleft()
            terms = done.read()
            reason = what_is_not_finite(terms)
            if reason:
                self._refuse(done.step - 1, done.batch, reason)
            smooth = self.state.smooth
            for name, value in terms.items():
                old = smooth.get(name, value)
                smooth[name] = SMOOTHING * old + (1 - SMOOTHING) * value
            if done.step % self.recipe.log_every == 0:
                log.row(done.place, smooth, terms)

    def _validate(self, log: RunLog) -> None:
        """Let the validator look, in the first process, without touching the run's chances."""
        if self.validator is None:
            return
        with sharding.whole_weights(self.plain_stage):
            if self.accelerator.is_main_process:
                self._look(self.validator, log)

    def _look(self, validator: Validator, log: RunLog) -> None:
        before = RandomState.now()
        self.plain_stage.eval()
        try:
            result = validator(self.plain_stage, self.folder, self.state.step)
        finally:
            self.plain_stage.train()
            before.restore()
        place = {**self._place(), "loss": round(self.state.smooth.get("loss", math.nan), 5)}
        log.validated(place, result)

    def _agree(self, since_look_s: float, since_save_s: float, is_late: bool) -> Due:
        """Say what is due, alike in all processes: the first one's clock, anyone's wish."""
        wanted = self.recipe.validation
        by_steps = bool(wanted.every_steps) and self.state.step % wanted.every_steps == 0
        look = bool(wanted.every_minutes) and since_look_s > 60.0 * wanted.every_minutes
        save = since_save_s > 60.0 * self.recipe.checkpoint_minutes
        stop = self.stop_requested or is_late
        if self.is_distributed:
            if self.state.step % AGREE_EVERY:
                return Due(by_steps, False, False)
            device = self.accelerator.device
            first = torch.tensor([self.state.seconds, float(look), float(save)], device=device)
            torch.distributed.broadcast(first, 0)
            wish = torch.tensor([float(stop)], device=device)
            torch.distributed.all_reduce(wish, torch.distributed.ReduceOp.MAX)
            self.state.seconds = self.agreed_seconds = float(first[0])
            look, save, stop = bool(first[1]), bool(first[2]), bool(wish)
        return Due(by_steps or look, save, stop)

    def _refuse(self, step: int, batch: Any, reason: str) -> None:
        rank = self.accelerator.process_index
        suffix = f"_process{rank}" if rank else ""
        path = self.folder / f"not_finite_step{step}{suffix}.pt"
        write_atomically(path, {"batch": batch, "step": step})
        raise NotFiniteError(
            f"step {step}: {reason}; the batch is in {path}, the last checkpoint is whole"
        )

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True

    def save(self) -> Path:
        """Write the checkpoint, whole tensors; only the main process does, all must call."""
        path = self.folder / CHECKPOINT
        is_main = self.accelerator.is_main_process
        weights = {
            "stage": self.plain_stage.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }
        whole = sharding.gather(weights, is_main)
        if is_main:
            sharding.restore_scalars(whole["stage"], self.scalars)
            if whole["average"] is not None:
                sharding.restore_scalars(whole["average"]["weights"], self.scalars)
            rest = {"state": vars(self.state), "random": vars(RandomState.now())}
            write_atomically(path, {"recipe": self.recipe.as_dict(), **whole, **rest})
        return path

    def load(self, path: str | Path | None = None) -> bool:
        """Go on from a checkpoint, of a sharded run or not; return False where there is none."""
        file = self.folder / CHECKPOINT if path is None else Path(path)
        if not file.is_file():
            return False
        # Mapped where several processes read it: each takes its share of the same pages.
        saved = torch.load(file, map_location="cpu", weights_only=False, mmap=self.is_distributed)
        places = self.plain_stage.state_dict()
        self.plain_stage.load_state_dict(sharding.cut(saved["stage"], places))
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None and saved["average"] is not None:
            self.average.load_state_dict(saved["average"])
        self.state = RunState(**saved["state"])
        self.agreed_seconds = self.state.seconds
        RandomState(**saved["random"]).restore()
        return True
