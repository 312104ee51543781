"""Functions: scheduling, obligations in flight, stop and go, faults, counters."""
