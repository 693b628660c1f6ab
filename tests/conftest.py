"""What holds for every test."""

import os

# Test processes run side by side: a thread for each core in each of them would spend its time waiting for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")
