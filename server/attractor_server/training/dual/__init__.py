"""Writing loops in their dual form: they carry what each pattern adds to the fast weights, not the fast weights.

Exact, and several times as fast to train through where few patterns are written at a time. `energy.writer.write` is the
slow twin of all of them.
"""

from attractor_server.energy.parameters import Parameters


def has_dual(parameters: Parameters) -> bool:
    """Whether the loop has the terms that the dual forms are of: energy, slope by the input, distance."""
    return {"log_energy", "log_alpha", "log_beta"} <= parameters.writer.keys() and "log_gamma" not in parameters.writer
