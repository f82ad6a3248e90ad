"""Two models of a reader's choice in JupyterLab, with menus where ipywidgets is installed; nothing is written."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

from sslsim.activations.store import ActivationStore, Stores
from sslsim.analysis.examples import head_pair
from sslsim.comparison.crops import with_attention
from sslsim.comparison.heads import compare_attention
from sslsim.comparison.layers import compare
from sslsim.errors import SslsimError, close_match
from sslsim.figures.clips import head_maps
from sslsim.figures.curves import partners_against_null
from sslsim.figures.maps import heatmaps, matrix
from sslsim.measures.registry import MEASURES
from sslsim.significance.evidence import Resampling
from sslsim.significance.run import evidence
from sslsim.speech.alignments import alignments_of

ONE_MISMATCH = Resampling(permutations=1, blocks=0, rotations=0)  # what random bases reach is known in closed form


def explore_neurons(stores: Stores, x: str, y: str, layer: int, measure: str, **how: Any) -> None:
    """Show all layers of two models by a measure, and how well the neurons of a layer of `x` are matched in `y`.

    `how` has `frames` and `device`. A name or number that is not there is an SslsimError that says what is.
    """
    _choose(stores, _layers_and_neurons, {"x": x, "y": y, "layer": layer, "measure": measure}, **how)


def explore_layers(stores: Stores, x: str, y: str, layer: int, measure: str, **how: Any) -> None:
    """Show all layers of two models by a measure, and a layer of `x` beside all layers of both; see above for `how`."""
    _choose(stores, _layers, {"x": x, "y": y, "layer": layer, "measure": measure}, **how)


def explore_heads(stores: Stores, x: str, y: str, layer: int, head: int, **how: Any) -> None:
    """Show a head of `x` beside the head of `y` that is most like it, on a typical utterance.

    `how` has the `measure` that says which, the `corpus` whose sound is shown, and the `device`.
    """
    _choose(stores, _heads, {"x": x, "y": y, "layer": layer, "head": head}, heads=True, **how)


def _choose(stores: Stores, draw: Callable[..., Any], chosen: dict[str, Any], heads: bool = False, **how: Any) -> None:
    if os.environ.get("SSLSIM_STAGING"):
        print("In JupyterLab (`make lab`) this cell has menus, and shows two models of your choice.")
        return
    names = [store.name for store in (with_attention(stores) if heads else stores)]
    known: dict[str, Sequence[Any]] = {"x": names, "y": names}
    known["layer"] = range(max(heads, stores[0].layer_numbers[0]), max(store.layer_numbers[-1] for store in stores) + 1)
    known["head"] = range(max(store.n_heads for store in stores)) if heads else ()
    known["measure"] = [name for name, measure in MEASURES.items() if measure.level != "attention"]
    _check(chosen, known)

    def show(**values: Any) -> None:
        own = {"layer": stores[values["x"]].layer_numbers[heads:], "head": range(stores[values["x"]].n_heads)}
        _check({name: values[name] for name in own if name in values}, own, f" of {values['x']}")
        for figure in draw(stores, **values, **how):
            display(figure)
            plt.close(figure)

    if find_spec("ipywidgets"):
        from ipywidgets import Dropdown, interact

        interact(show, **{name: Dropdown(options=[*known[name]], value=value) for name, value in chosen.items()})
    else:
        show(**chosen)


def _check(values: Mapping[str, Any], known: Mapping[str, Sequence[Any]], of: str = "") -> None:
    for name, value in values.items():
        if value not in known[name]:
            ends = f"; give {known[name][0]} to {known[name][-1]}{of}" if isinstance(known[name], range) else ""
            raise SslsimError(f"{name} is {value!r}{ends or close_match(value, known[name])}")


def _layers_and_neurons(stores: Stores, x: str, y: str, layer: int, measure: str, **how: Any) -> Iterator[Figure]:
    pair = _pair(stores, x, y)
    yield heatmaps(compare(pair, [measure], **how), [measure])
    if len(pair) > 1:
        found = evidence(pair, ["max_corr"], between=[(x, y)], resampling=ONE_MISMATCH, **how).partners
        assert found is not None
        yield partners_against_null(found[(found.model_x == x) & (found.layer_x == layer)])


def _layers(stores: Stores, x: str, y: str, layer: int, measure: str, **how: Any) -> Iterator[Figure]:
    table = compare(_pair(stores, x, y), [measure], **how)
    yield heatmaps(table, [measure])
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    lines = matrix(table, measure).loc[(x, layer)].unstack(0)
    lines.plot(ax=ax, marker="o", ylim=(None, 1), xlabel="layer", ylabel=f"{measure} with layer {layer} of {x}")
    yield figure


def _heads(
    stores: Stores, x: str, y: str, layer: int, head: int, *, measure: str, corpus: Any, device: str
) -> Iterator[Figure]:
    if x == y:
        raise SslsimError(f"x and y are both {x!r}; choose two models, whose heads can match")
    _, found = compare_attention(_pair(stores, x, y), [measure], device=device)
    match = found[(found.model_x == x) & (found.layer_x == layer) & (found.head_x == head)]
    yield head_maps(head_pair(match, stores, corpus, alignments_of(corpus)))


def _pair(stores: Stores, x: str, y: str) -> list[ActivationStore]:
    return [stores[name] for name in dict.fromkeys((x, y))]
