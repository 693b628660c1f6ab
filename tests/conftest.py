"""What holds for every test."""

import os

from hypothesis import HealthCheck, settings

# Test processes run side by side: a thread for each core in each of them would spend its time waiting for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says something about the machine's other work, not about the code.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")
