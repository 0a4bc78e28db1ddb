"""Host and device: how small tables of the host get to the features, and when a value may be read back.

An accelerator works behind the host's back. Whoever reads one of its values, or sends it one in the ordinary way, waits
until everything before is done, and meanwhile queues nothing: with the few tokens of a pruned prompt the device would
then stand still. So selection and packing count on the host what can be counted there, and read nothing back.
"""

from __future__ import annotations

import torch


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`values`, mostly the host's, on `device`; on CUDA without waiting for what the device is doing.

    From pinned memory a copy is queued like any other work, and PyTorch keeps the memory until it has been read.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
