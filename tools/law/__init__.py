"""Mutation of the tables of ``anyamqp.protocol.lifecycle``, each mutant run by the real objects.

``python -m tools.law [table ...]`` mutates every cell of every table and runs the tests of the objects that follow it.
A mutant that no test notices is a survivor: either :mod:`tools.law.suites` says why it makes no difference, or a test
is missing, and the exit status is 1.
"""
