"""Liveness under load: one module for each kind of load that must not stop the others. `make stress` runs them."""
