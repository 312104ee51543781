"""Random traffic with resets and suspensions amid it, every frame accounted for: `run`."""
