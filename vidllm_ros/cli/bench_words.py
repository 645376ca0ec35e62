# SPDX-License-Identifier: Apache-2.0
"""`vidllm bench words`: what learning words costs in rows, against its packed twin.

One pass forwards and backwards over scenes and the sentences behind them, boxes and looks at the
evidence left out; weights and words are random. Next: network/word_rows.py, which says why rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidllm_ros.cli.bench_report import Bar, print_bars, surroundings, with_bars
from vidllm_ros.cli.command import note, run_command
from vidllm_ros.cli.output_files import check_file_target, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from vidllm_ros.network.configuration import VidLLMConfig
    from vidllm_ros.network.text_packing import PackedText

BARS = (Bar("rows_vs_packed", 1.0, "packed twin / in rows, same run", is_least=True),)
SENTENCE = (10, 30)  # tokens, least and most: as questions with their answers have


def bench_words(
    model: Annotated[Path, typer.Option(help="folder whose language model's sizes are taken")] = (
        Path("models/vidllm-nano")
    ),
    scenes: Annotated[int, typer.Option(min=1, help="of a batch")] = 4,
    text_tokens: Annotated[int, typer.Option(min=32, help="behind each scene")] = 800,
    repetitions: Annotated[int, typer.Option(min=1, help="of each side")] = 9,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, by autocast")] = "float32",
    clock: Annotated[
        str, typer.Option(help="wall, or cpu: processor time, on a shared CPU")
    ] = "wall",
    out: Annotated[Path, typer.Option(help="report, JSON")] = Path("bench_words.json"),
) -> None:
    """Measure a training pass over words in rows and packed, in turn; the ratio is the bar."""
    check_file_target("--out", out, ".json")
    from vidllm_ros.network.attention_kernels import clock_of
    from vidllm_ros.network.configuration import VidLLMConfig
    from vidllm_ros.streaming.loading import choose_device
    from vidllm_ros.streaming.repeated_timing import measure_in_turn, spread_of

    chosen = choose_device(device)
    read = clock_of(clock, chosen)
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision: expected float32 or bfloat16, got {precision!r}")
    if not (model / "config.json").is_file():
        raise FileNotFoundError(f"model: expected a folder with a config.json, got {model}")
    note(f"building the language model of {model} with random weights")
    config = VidLLMConfig.from_pretrained(model)
    calls = passes(config, scenes, text_tokens, chosen, precision == "bfloat16")
    seconds = measure_in_turn(calls, repetitions, clock=read)
    spread = {name: spread_of(taken) for name, taken in seconds.items()}
    report: dict[str, Any] = {name: found.in_ms() for name, found in spread.items()}
    report["rows_vs_packed"] = spread["packed"].median / spread["rows"].median
    said = {"model": model, "scenes": scenes, "text-tokens": text_tokens, "device": device}
    said |= {"precision": precision, "repetitions": repetitions, "clock": clock, "out": out}
    words = [word for name, value in said.items() for word in (f"--{name}", str(value))]
    report = with_bars(report | surroundings(["words", *words]), BARS)
    write_json(out, report)
    print_bars(report, BARS, f"{scenes} scenes, {text_tokens} tokens of words behind each")
    print(json.dumps({name: report[name] for name in ("rows", "packed", "rows_vs_packed")}))


def passes(
    config: VidLLMConfig, scenes: int, text_tokens: int, device: Any, is_half: bool
) -> dict[str, Callable[[], dict[str, Tensor]]]:
    """Return both ways to pass over the same words; each call returns its gradients by name."""
    import torch

    from vidllm_ros.network.language import SceneLanguageModel
    from vidllm_ros.network.word_rows import read_in_rows, word_rows

    torch.manual_seed(0)
    language = SceneLanguageModel(config).to(device).train()
    text = random_text(scenes, text_tokens, config.language_config().vocab_size)
    rows, text = word_rows(text.segment_ids).to(device), text.to(device)
    embeds = torch.randn(scenes, config.max_scene_tokens, language.dim, device=device)
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=device)
    said = text.segment_ids >= 0

    def learn(read: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        leaf = embeds.clone().requires_grad_()
        with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
            logits = read(leaf)
        logits[said].float().logsumexp(-1).mean().backward()
        found = {"scenes": leaf.grad, **{n: p.grad for n, p in language.named_parameters()}}
        language.zero_grad()
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    return {
        "rows": lambda: learn(lambda leaf: read_in_rows(language, leaf, mask, text, rows).logits),
        "packed": lambda: learn(lambda leaf: language.packed_forward(leaf, mask, text).logits),
    }


def random_text(scenes: int, tokens: int, vocabulary: int, seed: int = 0) -> PackedText:
    """Return sentences of random length and words, packed until none fits."""
    import torch

    from vidllm_ros.network.text_packing import PackedText

    generator = torch.Generator().manual_seed(seed)
    segment_ids = torch.full((scenes, tokens), -1)
    offsets = torch.zeros(scenes, tokens, dtype=torch.long)
    for b in range(scenes):
        used = 0
        for number in range(tokens):
            low, high = SENTENCE
            length = int(torch.randint(low, high + 1, (), generator=generator))
            if used + length > tokens:
                break
            segment_ids[b, used : used + length] = number
            offsets[b, used : used + length] = torch.arange(length)
            used += length
    ids = torch.randint(vocabulary, (scenes, tokens), generator=generator)
    nowhere = torch.full((scenes, 0), -1)
    return PackedText(ids, segment_ids, offsets, ids, nowhere, nowhere)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(bench_words, "bench words", argv)
