"""A stand-in `nvidia-smi` on PATH and a stand-in torch for machines that have no GPU to ask."""

from __future__ import annotations

import os
import stat
from pathlib import Path

H100 = "0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559, 580.65.06"
RTX_3060 = "1, GPU-bbbb, NVIDIA GeForce RTX 3060, 12288, 535.54.03"
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU "
    "driver by downloading and installing a new version"
)

SMI = """#!/bin/sh
case "$*" in
*--query-gpu=index,*) cat "{folder}/gpus" ;;
*--query-gpu=*) cat "{folder}/gpus" ;;
*--query-compute-apps=*) cat "{folder}/apps" ;;
esac
exit {code}
"""
TORCH = '''
"""Says what it is told to; stands where a torch with CUDA would."""
__version__ = "2.13.0+cu130"
class version:
    cuda = "13.0"
class cuda:
    @staticmethod
    def is_available():
        return {works}
    @staticmethod
    def get_device_capability():
        if not {works}:
            raise RuntimeError({error!r})
        return {capability}
class backends:
    class mps:
        @staticmethod
        def is_available():
            return False
class _Number:
    def __add__(self, other): return self
    def sum(self): return self
    def item(self):
        if {error!r}:
            raise RuntimeError({error!r})
def ones(*size, device):
    return _Number()
'''


class FakeMachine:
    """Files that a test can change while a tournament runs."""

    def __init__(self, folder: Path, gpus: str, apps: str, code: int) -> None:
        self.bin, self.apps = folder / "bin", folder / "apps"
        self.bin.mkdir()
        (folder / "gpus").write_text(gpus)
        self.apps.write_text(apps)
        script = self.bin / "nvidia-smi"
        script.write_text(SMI.format(folder=folder, code=code))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    @property
    def path(self) -> str:
        """A PATH on which its nvidia-smi comes first."""
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"


def fake_machine(folder: Path, gpus: str = H100, apps: str = "", code: int = 0) -> FakeMachine:
    folder.mkdir(exist_ok=True)
    return FakeMachine(folder, gpus, apps, code)


def fake_torch(
    folder: Path, *, works: bool, error: str = "", capability: tuple[int, int] = (9, 0)
) -> Path:
    """A folder for PYTHONPATH whose torch has CUDA; triton lies beside it."""
    folder.mkdir(exist_ok=True)
    text = TORCH.format(works=works, error=error, capability=capability)
    (folder / "torch.py").write_text(text)
    (folder / "triton.py").write_text('__version__ = "3.5.0"\n')
    return folder
