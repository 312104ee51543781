"""The virtio-net function: registers, queue contexts, rings, gather, scatter, used ring."""
