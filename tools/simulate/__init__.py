"""Simulation: whole worlds of real connections, the embedded broker and seeded faults, in virtual time.

``python -m tools.simulate`` runs them; docs/simulate.md says what they are and what they found.
"""
