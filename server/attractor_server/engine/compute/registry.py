"""Closed forms by type of network. A network with a fast form is one file beside this one and one line in the table."""

from collections.abc import Mapping

from attractor_server.energy.model import Model
from attractor_server.energy.networks import EnergyNetwork
from attractor_server.energy.networks.bilinear import Bilinear
from attractor_server.energy.networks.quadratic import Quadratic
from attractor_server.engine.compute.bilinear import BilinearForm
from attractor_server.engine.compute.closed_form import ClosedForm
from attractor_server.engine.compute.quadratic import QuadraticForm

CLOSED_FORMS: Mapping[type[EnergyNetwork], type[ClosedForm]] = {
    Quadratic: QuadraticForm,
    Bilinear: BilinearForm,
}


def make_closed_form(model: Model) -> ClosedForm | None:
    """Make the closed form of the model's network.

    None where there is none, or where the network has a setting that it does not know: then the network is computed as
    it stands, so that an option of a network needs no more than its own file to be right.
    """
    network = model.network
    form = CLOSED_FORMS.get(type(network))
    return None if form is None or network.config.keys() - form.SETTINGS else form.of(network, model.parameters)
