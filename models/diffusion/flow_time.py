"""Flow time: sigma / (alpha + sigma), in which every schedule is the straight flow (see `samplers.py`).

Samplers step in it, and evaluations walk and draw in it, so that a range or a grid means the same noise for every
model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.diffusion.noise_schedules import NoiseSchedule


def flow_time(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Float64 flow times of the times t, of any shape."""
    sigma = schedule.sigma(t)
    return sigma / (schedule.alpha(t) + sigma)


def t_of(schedule: NoiseSchedule, flow_times: Tensor) -> Tensor:
    """The inverse of `flow_time`: float64."""
    return schedule.t_from_log_snr(-2 * torch.logit(flow_times.double()))


def last_flow_time(schedule: NoiseSchedule) -> float:
    """Where the schedule ends: 1 if it ends in pure noise, a little less for chains that keep a trace of signal."""
    return flow_time(schedule, torch.ones(())).item()
