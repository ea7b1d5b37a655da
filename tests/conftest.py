"""Shared by all tests: registries filled, one torch thread, nothing read from the user's environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in the tests needs the internet

import pytest  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _registries() -> None:
    import torch

    import models
    import tasks

    torch.set_num_threads(1)
    tasks.load_all()
    models.load_all()
