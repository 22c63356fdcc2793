"""The durable queue of background calculations."""

from stem_ae.jobs.config import Config
from stem_ae.jobs.queue import OVER, Job, Queue, Row, State
from stem_ae.jobs.watch import Watch

__all__ = ["OVER", "Config", "Job", "Queue", "Row", "State", "Watch"]
