"""How fast anyamqp is, beside the other clients and beside a bare socket: ``python -m benchmarks``."""
