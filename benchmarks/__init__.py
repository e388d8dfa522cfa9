"""How fast holdfast is, beside the other clients and beside a bare socket: ``python -m benchmarks``."""
