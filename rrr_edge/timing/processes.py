"""The processes that torchrun started for one training.

RANK and WORLD_SIZE alone say nothing: schedulers and containers set them for programs of their own.
"""

import os


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1")) if _is_torchrun() else 1


def process_rank() -> int:
    """This process's number, from 0 on."""
    return int(os.environ.get("RANK", "0")) if _is_torchrun() else 0


def _is_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
