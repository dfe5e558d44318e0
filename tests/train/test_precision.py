"""The options bf16 and tf32: where they act, and that weights and losses stay in float32."""

from __future__ import annotations

import pytest
import torch
from toy_mocks import TRAINING, toy_trainer, train

from lensscan.errors import ConfigError
from lensscan.train.run import set_precision
from lensscan.train.settings import TrainSettings

MAPPING = {
    **TRAINING,
    "steps": 8,
    "validate_every": 8,
    "checkpoint_seconds": 1e9,
    "network": {"widths": [8, 12], "depths": [1, 1], "hidden": 16, "squeeze": 8, "condition": 8},
    "optimiser": {"warmup": 2, "ema": 0.9, "lr": 3e-3},
}


def seen(trainer) -> set[torch.dtype]:
    """Return the types that the convolutions of a training give from now on."""
    found: set[torch.dtype] = set()
    for layer in trainer.network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _layer, _inputs, output: found.add(output.dtype))
    return found


@pytest.mark.parametrize(("precision", "wanted"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_trunk_computes_in_the_type_asked_for_and_all_else_in_float32(tmp_path, precision, wanted):
    trainer = toy_trainer(tmp_path, {**MAPPING, "precision": precision})
    types = seen(trainer)
    losses = trainer.train_step()
    trainer.stream.close()
    assert types == {wanted}
    assert losses.dtype == torch.float32
    assert {value.dtype for value in trainer.parameters} == {torch.float32}
    assert {value.grad.dtype for value in trainer.parameters} == {torch.float32}


def test_bf16_learns_what_float32_learns_and_resumes_to_the_bit(tmp_path):
    first = {}
    for precision in ("fp32", "bf16"):
        trainer = toy_trainer(tmp_path / precision, {**MAPPING, "precision": precision})
        first[precision] = float(trainer.train_step()[0])
        trainer.stream.close()
    assert first["bf16"] == pytest.approx(first["fp32"], rel=0.02)
    assert first["bf16"] != first["fp32"]
    whole = toy_trainer(tmp_path / "whole", {**MAPPING, "precision": "bf16"})
    train(whole)
    for until in (3, None):
        cut = toy_trainer(tmp_path / "cut", {**MAPPING, "precision": "bf16"})
        train(cut, until)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(cut.network.state_dict()[name], value), name


@pytest.fixture
def flags():
    """What torch says of float32 products on GPUs, put back after the test; needs no GPU."""
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


@pytest.mark.parametrize(("precision", "allowed"), [("tf32", True), ("fp32", False), ("bf16", True)])
def test_tf32_is_allowed_where_it_was_asked_for(flags, precision, allowed):
    set_precision(torch.device("cuda"), "fp32" if allowed else "tf32")
    assert flags() == (not allowed, not allowed)
    set_precision(torch.device("cuda"), precision)
    assert flags() == (allowed, allowed)
    set_precision(torch.device("cpu"), "fp32" if allowed else "tf32")
    assert flags() == (allowed, allowed), "a CPU has no such setting"


def test_other_precisions_are_refused():
    with pytest.raises(ConfigError, match="precision"):
        TrainSettings.from_mapping({**MAPPING, "precision": "fp16"}, "here")
