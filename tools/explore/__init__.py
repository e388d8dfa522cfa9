"""Exploration of the real objects of ``anyamqp.protocol``, breadth first and without an event loop.

``python -m tools.explore`` plays every order of the user's calls, the broker's answers, losses and deadlines up to a
stated depth, checks the invariants after each step, and plants bugs to show that they are found. The vocabulary
(*always*, *sometimes*, *eventually*) is that of Stateright, a model checker for Rust that runs the code that ships.
"""
