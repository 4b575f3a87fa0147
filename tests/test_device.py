"""No device, no compiler: prepare.py says so in one sentence each, before it asks for data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import prepare  # noqa: E402


def test_what_the_harness_names_is_taken_and_never_replaced_by_a_slower_device():
    assert prepare.pick_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match=r"^FAIL: no GPU can be used: .*CUDA"):
            prepare.pick_device("cuda")
    if not torch.backends.mps.is_available():
        with pytest.raises(SystemExit, match=r"^FAIL: no Apple GPU"):
            prepare.pick_device("mps")


def test_a_device_that_is_none_is_refused_instead_of_replaced():
    with pytest.raises(SystemExit, match="must be cpu, cuda or mps, not 'cuda:1'"):
        prepare.pick_device("cuda:1")


def test_a_driver_that_is_too_old_is_named_in_torchs_own_words(monkeypatch):
    def old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nX")

    monkeypatch.setattr(torch.cuda, "init", old)
    with pytest.raises(SystemExit) as raised:
        prepare.pick_device("cuda")
    assert "driver on your system is too old (found version 11040)" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("cuda", "mps", "best"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_left_alone_it_takes_the_best_there_is(monkeypatch, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert prepare.pick_device() == best


@pytest.fixture
def triton(tmp_path, monkeypatch):
    """Something that can be found under the name of triton."""
    (tmp_path / "triton.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)


def test_no_triton_is_said_before_the_compiler_fails(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    with pytest.raises(SystemExit, match="triton"):
        prepare.check_compiler()


def test_no_c_compiler_is_said_too(triton, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(SystemExit, match="C compiler"):
        prepare.check_compiler()
    monkeypatch.setenv("CC", "/opt/cc")
    prepare.check_compiler()
    monkeypatch.delenv("CC")
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    prepare.check_compiler()


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Some card of next year", None),
    ],
)
def test_the_peak_is_the_devices_own(monkeypatch, name, flops):
    monkeypatch.setattr(prepare, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert prepare.peak_flops() == flops
