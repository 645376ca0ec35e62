# SPDX-License-Identifier: Apache-2.0
"""Another model plugs in by name; what it cannot do is said."""

import sys
import types

import pytest

from vidllm_ros.evaluation.predictor import load_predictor, require_ability


class Answerer:
    name = "answerer"

    def see(self, view):
        return view

    def answer(self, seen, question, situation=""):
        return "yes"


@pytest.fixture
def module(monkeypatch):
    made = types.ModuleType("my_models")
    made.Answerer, made.Nothing = Answerer, lambda: 3
    monkeypatch.setitem(sys.modules, "my_models", made)


def test_module_and_factory(module):
    predictor = load_predictor("my_models:Answerer")
    assert require_ability(predictor, "answer")(None, "?") == "yes"


def test_what_is_wrong_is_said(module):
    with pytest.raises(ValueError, match="expected module:factory, got 'my_models'"):
        load_predictor("my_models")
    with pytest.raises(ImportError, match="expected 'Missing' in my_models"):
        load_predictor("my_models:Missing")
    with pytest.raises(ValueError, match=r"something with see\(\), got 3"):
        load_predictor("my_models:Nothing")
    with pytest.raises(TypeError, match=r"expected 'answerer' to have depth\(\)"):
        require_ability(Answerer(), "depth")
