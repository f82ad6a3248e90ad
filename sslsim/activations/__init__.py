"""What encoders made of a corpus: extracted once, kept in a store, read memory-mapped."""

from sslsim.activations.arrays import from_arrays
from sslsim.activations.conditions import condition
from sslsim.activations.store import ActivationStore, Stores, open_store
from sslsim.activations.study import Study, extract
from sslsim.activations.units import in_units

__all__ = ["ActivationStore", "Stores", "Study", "condition", "extract", "from_arrays", "in_units", "open_store"]
