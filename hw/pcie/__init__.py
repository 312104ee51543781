"""PCI Express: TLP streams, config space, BARs, MSI-X, DMA read and write."""
