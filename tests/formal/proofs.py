"""All proofs."""

from sim.formal import Proof
from tests.formal import (
    byte_proofs,
    cell_proofs,
    issue_proofs,
    pcie_proofs,
    ring_proofs,
    stream_proofs,
    take_proofs,
    used_proofs,
    visit_proofs,
)

__all__ = ["PROOFS"]

PROOFS: list[Proof] = [
    *stream_proofs.PROOFS, *byte_proofs.PROOFS, *pcie_proofs.PROOFS, *ring_proofs.PROOFS,
    *used_proofs.PROOFS, *cell_proofs.PROOFS, *take_proofs.PROOFS,
    *visit_proofs.PROOFS, *issue_proofs.PROOFS,
]
