"""Everything that breaks on purpose: attacks, faults, kills, and the proofs that nothing is lost by them."""
