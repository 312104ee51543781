"""Packet streams: types, register slices, queues, arbiters, shifters, memories."""
