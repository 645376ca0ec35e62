# SPDX-License-Identifier: Apache-2.0
"""A language model that never sees the room: what the questions alone give away.

Same architecture and tokenizer as the network's, trained from scratch on training rooms' questions
and answers without any scene token. Its exact match is what seeing must beat. Next: benchmark.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase

from vidllm_ros.data.samples import Question
from vidllm_ros.prompts import answer_text, question_prompt

BATCH = 64
LEARNING_RATE = 2e-3
IGNORED = -100


class TextOnlyAnswerer:
    """Answers from the words of the question alone.

    Args:
        config: of the language model.
        tokenizer: the network's.
        seed: of the initial weights and of the order of questions.
    """

    def __init__(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, seed: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = AutoModelForCausalLM.from_config(config)
        self.tokenizer = tokenizer
        self.generator = torch.Generator().manual_seed(seed)
        self.known: dict[str, str] = {}

    def encode(self, question: Question) -> tuple[Tensor, Tensor]:
        """Token ids of prompt, answer and <eos>, and where the loss falls."""
        prompt = self.tokenizer.encode(
            question_prompt(question.question), add_special_tokens=False
        )
        answer = self.tokenizer.encode(answer_text(question.answers[0]), add_special_tokens=False)
        answer = [*answer, int(self.tokenizer.eos_token_id)]
        return torch.tensor(prompt + answer), torch.tensor([IGNORED] * len(prompt) + answer)

    def fit(
        self,
        questions: Sequence[Question],
        minutes: float,
        max_epochs: int = 6,
        on_step: Callable[[float], None] | None = None,
    ) -> float:
        """Train until the time is over or every question was seen `max_epochs` times.

        Args:
            questions: of training rooms.
            minutes: wall time.
            max_epochs: keeps a small set from being learnt by heart.
            on_step: told the share that is done.

        Returns:
            the last smoothed loss.
        """
        if not questions:
            raise ValueError("questions: expected some of training rooms, got none")
        encoded = [self.encode(question) for question in questions]
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
        steps = max_epochs * max(len(encoded) // BATCH, 1)
        started, smooth = time.monotonic(), float("nan")
        self.model.train()
        for step in range(steps):
            done = max(step / steps, (time.monotonic() - started) / (60 * minutes))
            if done >= 1:
                break
            chosen = torch.randint(len(encoded), (BATCH,), generator=self.generator).tolist()
            ids = pad_sequence([encoded[i][0] for i in chosen], batch_first=True)
            labels = pad_sequence(
                [encoded[i][1] for i in chosen], batch_first=True, padding_value=IGNORED
            )
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(step / 50 + 0.02, 1.0) * (1 - done)
            loss = self.model(input_ids=ids, labels=labels).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            value = float(loss.detach())
            smooth = value if smooth != smooth else 0.95 * smooth + 0.05 * value
            if on_step is not None:
                on_step(done)
        self.model.eval()
        return smooth

    @torch.inference_mode()
    def __call__(self, question: Question) -> str:
        """Answer greedily; equal questions are answered once."""
        text = question.question
        if text not in self.known:
            ids = self.tokenizer.encode(question_prompt(text), add_special_tokens=False)
            prompt = torch.tensor([ids])
            eos = int(self.tokenizer.eos_token_id)
            out = self.model.generate(  # type: ignore[operator]
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=16,
                do_sample=False,
                eos_token_id=eos,
                pad_token_id=int(self.tokenizer.pad_token_id or 0),
            )
            said = self.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
            self.known[text] = str(said).strip()
        return self.known[text]
