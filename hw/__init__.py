"""The card, in Amaranth HDL. Rooms: stream, pcie, virtio, vf, wire."""
