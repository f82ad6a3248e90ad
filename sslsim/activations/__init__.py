"""What encoders made of a corpus: extracted once, kept in a store, read memory-mapped."""

from sslsim.activations.arrays import from_arrays
from sslsim.activations.conditions import condition
from sslsim.activations.selection import LayerView, check_pairable, layer_views
from sslsim.activations.store import ActivationStore, StoredLayer, Stores, open_store
from sslsim.activations.study import Study, extract
from sslsim.activations.units import in_units

__all__ = ["ActivationStore", "LayerView", "StoredLayer", "Stores", "Study", "check_pairable", "extract"]
__all__ += ["condition", "from_arrays", "in_units", "layer_views", "open_store"]
