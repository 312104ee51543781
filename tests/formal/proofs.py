"""All proofs."""

from sim.formal import Proof
from tests.formal import pcie_proofs, stream_proofs

__all__ = ["PROOFS"]

PROOFS: list[Proof] = [*stream_proofs.PROOFS, *pcie_proofs.PROOFS]
