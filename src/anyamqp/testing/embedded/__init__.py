"""The parts of the embedded broker, :class:`anyamqp.testing.Broker`. None of them is public."""
