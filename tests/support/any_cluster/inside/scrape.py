"""Runs in a Pod: what $URL answers."""

import os
import urllib.request

with urllib.request.urlopen(os.environ["URL"], timeout=30) as answer:
    print(answer.read().decode())
