"""The forms of factored modules, and the choice among them."""

import copy
import time

import pytest
import torch
from torch import nn

from shrinkml_env import compress, load_compressed, optimise_for_inference, save_compressed
from shrinkml_env.compression import inference
from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.modules import LOW_RANK_MODULES, LowRank, LowRankLinear, module_matrices
from tests.helpers.models import TinyCTC, tones


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


STATE = random(2, 3, 5)
CASES = {
    "linear": (nn.Linear(6, 7), [random(2, 6)], {}),
    "embedding": (nn.Embedding(9, 6), [torch.tensor([[1, 8], [0, 3]])], {}),
    "convolution": (nn.Conv1d(4, 7, 3, stride=2, padding=1), [random(2, 4, 9)], {}),
    "attention": (nn.MultiheadAttention(6, 2, batch_first=True), [random(2, 4, 6)] * 3, {"need_weights": False}),
    "attention of other sizes": (
        nn.MultiheadAttention(6, 2, kdim=5, vdim=4, batch_first=True),
        [random(2, 4, 6), random(2, 3, 5), random(2, 3, 4)],
        {},
    ),
    "lstm": (nn.LSTM(6, 5), [random(4, 3, 6)], {}),
    "lstm, batch first, with a state": (
        nn.LSTM(6, 5, batch_first=True), [random(3, 4, 6), (STATE[:1], STATE[1:])], {},
    ),
    "lstm without a batch": (nn.LSTM(6, 5, batch_first=True), [random(4, 6)], {}),
    "lstm without a batch, with a state": (nn.LSTM(6, 5), [random(4, 6), (STATE[:1, 0], STATE[1:, 0])], {}),
    "lstm without biases": (nn.LSTM(6, 5, bias=False), [random(4, 3, 6)], {}),
    "lstm of packed sequences": (
        nn.LSTM(6, 5), [nn.utils.rnn.pack_padded_sequence(random(4, 3, 6), torch.tensor([4, 3, 1]))], {},
    ),
    "two layers in two directions": (nn.LSTM(6, 5, num_layers=2, bidirectional=True), [random(4, 3, 6)], {}),
    "lstm cell": (nn.LSTMCell(6, 5), [random(3, 6), (STATE[0], STATE[1])], {}),
    "lstm cell without a state": (nn.LSTMCell(6, 5), [random(3, 6)], {}),
    "lstm cell without a batch": (nn.LSTMCell(6, 5), [random(6)], {}),
    "gru": (nn.GRU(6, 5), [random(4, 3, 6)], {}),
    "gru cell": (nn.GRUCell(6, 5), [random(3, 6)], {}),
}  # fmt: skip


def factored(module, names=None):
    """With factors of rank 3 whose products are the dense module's matrices."""
    factors = {}
    for matrix in module_matrices(module):
        if names is None or matrix.kind.split("_")[-1] in names:
            u, v = random(matrix.rows, 3), random(3, matrix.columns)
            factors[matrix.name] = Factors(u, v)
            getattr(module, matrix.name).data = (u @ v).view_as(getattr(module, matrix.name))
    replacement = LOW_RANK_MODULES[type(module)](module, factors)
    replacement._modules.update(module._modules)  # An attention module's output projection.
    return replacement


def flat(output):
    """All tensors of nested outputs."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [] if output is None else [tensor for part in output for tensor in flat(part)]


def check_forms(module, dense, args, kwargs):
    expected = flat(dense(*args, **kwargs))
    sum(tensor.sum() for tensor in expected).backward()
    for form in module.executions:
        module.execution = form
        for mode in torch.enable_grad, torch.inference_mode:
            with mode():
                found = flat(module(*args, **kwargs))
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        module.zero_grad()
        sum(tensor.sum() for tensor in flat(module(*args, **kwargs))).backward()
        for name in module.ranks:
            gradient = getattr(dense, name).grad.flatten(1)
            u, v = getattr(module, f"{name}_u"), getattr(module, f"{name}_v")
            torch.testing.assert_close(u.grad, gradient @ v.T, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(v.grad, u.T @ gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_all_forms_compute_what_the_original_does(case):
    dense, args, kwargs = CASES[case]
    dense = copy.deepcopy(dense)
    check_forms(factored(dense), dense, args, kwargs)


@pytest.mark.parametrize("names", [["ih"], ["hh"]])
@pytest.mark.parametrize("case", ["lstm", "lstm cell", "gru", "gru cell", "two layers in two directions"])
def test_forms_of_partly_factored_modules(case, names):
    dense, args, kwargs = CASES[case]
    dense = copy.deepcopy(dense)
    check_forms(factored(dense, names), dense, args, kwargs)


def test_which_forms_there_are():
    forms = {case: factored(copy.deepcopy(module)).executions for case, (module, _, _) in CASES.items()}
    both = ("factored", "merged")
    assert forms["linear"] == forms["embedding"] == forms["convolution"] == forms["gru"] == both
    assert forms["lstm"] == forms["lstm cell"] == (*both, "stepwise")
    assert forms["two layers in two directions"] == ("factored",)
    assert factored(nn.LSTM(6, 5), ["hh"]).executions == ("factored", "stepwise")
    assert factored(nn.LSTM(6, 5), ["ih"]).executions == both


def compressed():
    model = TinyCTC()
    return compress(model, {layer.name: max(1, layer.break_even // 2) for layer in model.layers})


def test_a_model_is_the_same_in_the_chosen_forms(tmp_path):
    model, waveforms = compressed(), tones()
    expected = [model.logits(waveform) for waveform in waveforms]
    forms = optimise_for_inference(model, waveforms[:1])
    modules = {path: module for path, module in model.named_modules() if isinstance(module, LowRank)}
    assert forms == {path: module.execution for path, module in modules.items()}
    assert len(forms) == 4
    assert all(form in modules[path].executions for path, form in forms.items())
    for module in modules.values():
        module.execution = "merged"
    for waveform, logits in zip(waveforms, expected, strict=True):
        torch.testing.assert_close(model.logits(waveform), logits, atol=1e-4, rtol=1e-4)
    save_compressed(model, tmp_path / "chosen")
    save_compressed(compressed(), tmp_path / "usual")
    assert (tmp_path / "chosen/model.safetensors").read_bytes() == (tmp_path / "usual/model.safetensors").read_bytes()
    assert load_compressed(tmp_path / "chosen").hidden.execution == "factored"
    assert copy.deepcopy(model).hidden.execution == "merged"


@pytest.mark.parametrize("slow", ["factored", "merged"])
def test_the_fastest_form_is_chosen(monkeypatch, slow):
    forward = LowRankLinear.forward

    def slower(self, input):
        started = time.thread_time()
        while self.execution == slow and time.thread_time() < started + 0.002:
            pass
        return forward(self, input)

    monkeypatch.setattr(LowRankLinear, "forward", slower)
    model = compressed()
    model.hidden.execution = slow  # What was chosen before counts for nothing.
    forms = optimise_for_inference(model, tones(2))
    assert forms["hidden"] == forms["output"] == {"factored": "merged", "merged": "factored"}[slow]


def test_calls_are_weighted_by_how_often_their_shapes_come(monkeypatch):
    """The fastest call of each shape counts, as often as the usual form was called with it."""
    module = factored(nn.Linear(6, 7))
    now = iter([0.0, 5.0, 5.0, 7.0, 7.0, 10.0, 10.0, 11.0])
    monkeypatch.setattr(inference.time, "thread_time", lambda: next(now))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    timer = inference._Timer({"path": module}, "cpu")
    with timer.running():
        for rows in (50, 2, 2, 50):
            module(random(rows, 6))
    few, many = sorted(timer.counts["path"], key=lambda shapes: "50" in shapes)
    assert timer.counts["path"] == {few: 2, many: 2}
    assert timer.seconds("path", {few: 10, many: 1}) == 10 * 2.0 + 1.0
    assert not module._forward_pre_hooks
    assert not module._forward_hooks


def test_a_module_that_was_not_called_keeps_its_usual_form():
    model = compressed()
    model.spare = factored(nn.Linear(6, 7))
    model.spare.execution = "merged"
    assert optimise_for_inference(model, tones(1))["spare"] == "factored"


def test_the_time_of_a_module_holds_that_of_those_in_it(monkeypatch):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, inputs):
            return self.inner(inputs)

    outer = Outer()
    now = iter([0.0, 5.0, 6.0, 8.0])
    monkeypatch.setattr(inference.time, "thread_time", lambda: next(now))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    timer = inference._Timer({"outer": outer, "inner": outer.inner}, "cpu")
    with timer.running():
        outer(torch.zeros(1))
    assert timer.seconds("outer", timer.counts["outer"]) == 8.0
    assert timer.seconds("inner", timer.counts["inner"]) == 1.0


def test_after_an_error_every_module_computes_as_before(monkeypatch):
    model = compressed()
    model.hidden.execution = "merged"
    calls = iter(range(3))
    recognise = type(model).recognise
    monkeypatch.setattr(type(model), "recognise", lambda self, waveforms: (next(calls), recognise(self, waveforms))[1])
    with pytest.raises(StopIteration):
        optimise_for_inference(model, tones(1))
    assert (model.hidden.execution, model.output.execution) == ("merged", "factored")
