"""The local stack of the demo, the tests and the benchmarks: sandbox and operator as processes, and a client for both.

It is used from a checkout of the repository only, so it is installed with `pip install --editable` (`make setup`).
"""
