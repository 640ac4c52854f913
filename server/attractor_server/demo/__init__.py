"""Demonstration of storing and recalling (`attractor demo`)."""

from attractor_server.demo.run import run_demo

__all__ = ["run_demo"]
