"""One module a client, each with ``run(task, watch)``, and ``serve(task)`` where it can answer remote calls."""
