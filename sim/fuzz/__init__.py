"""Hostile rings on the native engine: `run` and its cases."""
