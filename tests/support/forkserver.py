"""Processes that start in a moment: forked from one that has everything imported, and nothing begun."""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.chaos.tally", "tests.support.raw"])
