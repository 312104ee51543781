"""The wire boundary: entry, packet pool, frame queues, egress."""
