"""The main job, shown: `attractor demo`."""

from attractor_server.demo.run import run_demo

__all__ = ["run_demo"]
