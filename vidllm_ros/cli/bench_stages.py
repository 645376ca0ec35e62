# SPDX-License-Identifier: Apache-2.0
"""The stages of `vidllm bench model`: what is run for each, and what its literal twin runs.

Inputs of every stage are made once by the stages before it, so a stage's time is its own. Times
on a GPU are taken between two waits for it. Next: bench_whole.py for whole calls,
network/plain_twin.py for the twins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vidllm_ros.cli.bench_whole import WholeCalls, whole_report
from vidllm_ros.network import plain_twin
from vidllm_ros.network.acceleration import (
    Acceleration,
    accelerate,
    measured_ceilings,
)
from vidllm_ros.network.account import Account, StageCost, Workload
from vidllm_ros.network.attention_kernels import clock_of
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.language import next_token
from vidllm_ros.network.metric_geometry import frames_with_metric_depth
from vidllm_ros.network.patches3d import ScenePatches
from vidllm_ros.network.scene_places import channels
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.streaming.loading import choose_device
from vidllm_ros.streaming.memory_steps import free_memory, is_out_of_memory
from vidllm_ros.streaming.repeated_timing import Call, Clock, measure_in_turn, spread_of

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RECONSTRUCTION = ("encoder", "adapter", "aggregator", "camera_head", "depth_head", "metric_depth")
NEW_FRAMES = 8


@dataclass(frozen=True)
class Stage:
    """A stage as it is run, and literally; where both are the same, `plain` is `run`."""

    run: Call
    plain: Call


class StageBench:
    """A network with random weights on a device, ready to be timed."""

    def __init__(
        self,
        config: VidLLMConfig,
        load: Workload,
        device: str,
        precision: str,
        choice: Acceleration,
    ) -> None:
        self.device = choose_device(device)
        if precision == "auto":
            precision = "bfloat16" if self.device.type == "cuda" else "float32"
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected auto, {', '.join(PRECISIONS)}, got {precision}")
        self.precision, self.dtype = precision, PRECISIONS[precision]
        self.load, self.choice = load, choice
        self.account = Account(config, load)
        self.model = build(config, self.device, self.dtype)
        self._peak_bytes: int | None = None

    def peak_bytes(self) -> int | None:
        """Device memory at its fullest, weights included, without the twins; None on a CPU."""
        return self._peak_bytes

    def _run_once(self, stages: dict[str, Stage], whole: WholeCalls) -> None:
        """Run stages and whole calls, the twins not: what a window takes at its fullest."""
        if self.device.type != "cuda":
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        for stage in stages.values():
            stage.run()
        whole.run_once()
        self._peak_bytes = int(torch.cuda.max_memory_allocated(self.device))

    def _twins_that_fit(self, stages: dict[str, Stage]) -> set[str]:
        """Name the stages whose twin has memory here: its attention tables can be too large."""
        fitting = set()
        for name, stage in stages.items():
            try:
                stage.plain()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                free_memory()
            else:
                fitting.add(name)
        return fitting

    @torch.no_grad()
    def measure(self, repetitions: int, with_plain: bool, clock: str = "wall") -> dict[str, Any]:
        """Time every stage and its twin in turn, and whole calls; return the report.

        Args:
            repetitions: of each.
            with_plain: whether the twins run.
            clock: as in `clock_of`.
        """
        read = clock_of(clock, self.device)
        ceilings = measured_ceilings(self.device, self.dtype, read)
        with self.model.autocast():
            plain_stages = self._stages()
            whole = WholeCalls(self.model, self.load)
            tokens = self.load.frames * (self.account.patches + self.model.aggregator.patch_start)
            kernels = accelerate(self.model, self.choice, tokens)
            self._run_once(plain_stages, whole)
            twins = self._twins_that_fit(plain_stages) if with_plain else set()
            seconds = self._time(plain_stages, repetitions, twins, read)
            called = measure_in_turn(whole.calls(), repetitions, clock=read, before=whole.before)
            left_out = sorted(set(plain_stages) - twins) if with_plain else []
        costs = self.account.stages()
        report: dict[str, Any] = {
            "precision": self.precision,
            "acceleration": vars(self.choice),
            "attention_kernels_ms": {n: round(1e3 * s, 3) for n, s in kernels.seconds.items()},
            "attention_kernels_refused": kernels.refused,
            "ceiling_tflop_per_s": ceilings[0] / 1e12,
            "ceiling_gb_per_s": ceilings[1] / 1e9,
            "stages": {
                name: _stage_report(seconds, name, costs[name], ceilings) for name in costs
            },
        }
        if left_out:
            report["plain_out_of_memory"] = left_out
        totals = self._totals(seconds, with_plain and not left_out)
        return report | totals | whole_report(called, whole)

    def _time(
        self, stages: dict[str, Stage], repetitions: int, twins: set[str], clock: Clock
    ) -> dict[str, list[float]]:
        calls: dict[str, Call] = {}
        for name, stage in stages.items():
            calls[name] = stage.run
            if name in twins:
                calls[f"{name} plain"] = stage.plain
        return measure_in_turn(calls, repetitions, clock=clock)

    def _totals(self, seconds: dict[str, list[float]], with_plain: bool) -> dict[str, Any]:
        def median(names: tuple[str, ...], suffix: str = "") -> float:
            return sum(spread_of(seconds[name + suffix]).median for name in names)

        reconstruction = median(RECONSTRUCTION)
        first = reconstruction + median(("prefill", "first_token"))
        remembered = reconstruction - median(("encoder",)) + median(("encoder_new",))
        totals: dict[str, Any] = {
            "reconstruction_s": reconstruction,
            "window_to_first_token_s": first,
            "further_question_s": median(("first_token",)),
            "stride_window_s": remembered,
            "stride_window_ratio": remembered / reconstruction,
        }
        if with_plain:
            every = (*RECONSTRUCTION, "prefill", "first_token")
            totals["plain_window_to_first_token_s"] = median(every, " plain")
            totals["speedup_vs_plain"] = totals["plain_window_to_first_token_s"] / first
            further = median(("prefill", "first_token"), " plain")
            totals["further_question_speedup_vs_plain"] = further / totals["further_question_s"]
        return totals

    def _stages(self) -> dict[str, Stage]:
        """Run the network once and keep what each stage reads."""
        model, load, config = self.model, self.load, self.model.config
        images = torch.rand(1, load.frames, 3, *load.size, device=self.device)
        new = images[:, :NEW_FRAMES].clone()
        encoded = model.encoder(images)
        adapted = model.adapter(encoded.patch_tokens)
        aggregated = model.aggregator(adapted.geometry, encoded.grid)
        levels = aggregated.patch_levels(config.aggregator_layers)
        grid, size = encoded.grid, load.size
        scaled = frames_with_metric_depth(load.frames, config)
        width = channels(config.width, config.scene_places)
        tokens = torch.randn(1, load.scene_tokens, width, device=self.device)
        tokens = tokens.to(encoded.patch_tokens.dtype)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=self.device)
        scene = ScenePatches(tokens, torch.randn(*mask.shape, 3, device=self.device), mask)
        ids = torch.randint(3, 200, (1, load.text_tokens), device=self.device)
        embeds = model.scene_embeds(scene)
        prefix = model.language.encode_scene(embeds)

        def same(call: Call) -> Stage:
            return Stage(call, call)

        heads, twin = model.depth_head, plain_twin
        return {
            "encoder": Stage(
                lambda: model.encoder(images), lambda: twin.encode(model.encoder, images)
            ),
            "encoder_new": same(lambda: model.encoder(new)),
            "adapter": same(lambda: model.adapter(encoded.patch_tokens)),
            "aggregator": Stage(
                lambda: model.aggregator(adapted.geometry, grid),
                lambda: twin.aggregate(model.aggregator, adapted.geometry, grid),
            ),
            "camera_head": same(lambda: model.camera_head(aggregated.last)),
            "depth_head": Stage(
                lambda: heads(levels, grid, size), lambda: twin.dense(heads, levels, grid, size)
            ),
            "metric_depth": Stage(
                lambda: model.metric_depth(
                    [level[:, scaled] for level in encoded.levels], grid, size, keep_bins=False
                ),
                lambda: twin.metric_depth(model.metric_depth, encoded.levels, grid, size),
            ),
            "prefill": Stage(
                lambda: model.language.encode_scene(model.scene_embeds(scene)),
                lambda: model.scene_embeds(scene),  # the twin reads the scene with each word
            ),
            "first_token": Stage(
                lambda: next_token(model.language, prefix, ids),
                lambda: twin.next_token(model.language, embeds, ids),
            ),
        }


def build(config: VidLLMConfig, device: torch.device, dtype: torch.dtype) -> VidLLM:
    """Build a network with random weights where it will run, in its number format.

    The camera head stays in float32, as in a loaded checkpoint.
    """
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)  # 7 billion weights in float32 would not fit beside others
        with device:
            model = VidLLM(config)
    finally:
        torch.set_default_dtype(before)
    model.camera_head.float()
    return model.eval().requires_grad_(False)


def _stage_report(
    seconds: dict[str, list[float]], name: str, cost: StageCost, ceilings: tuple[float, float]
) -> dict[str, Any]:
    spread = spread_of(seconds[name])
    floor = max(cost.flops / ceilings[0], cost.byte_count / ceilings[1])
    entry: dict[str, Any] = {
        **spread.in_ms(),
        "gflop": cost.flops / 1e9,
        "tflop_per_s": cost.flops / spread.median / 1e12,
        "floor_ms": 1e3 * floor,
        "share_of_floor": floor / spread.median,
    }
    if f"{name} plain" in seconds:
        entry["plain"] = spread_of(seconds[f"{name} plain"]).in_ms()
    return entry
