"""``python -m benchmarks``: measure, and write ``docs/benchmarks.md`` with its picture and its raw samples.

Whatever is less than the whole measurement is written to ``build/benchmarks`` instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.broker import running_broker
from benchmarks.cases import BY_NAME, CLIENTS, C
from benchmarks.clients.with_librabbitmq import CannotCompile, compiled
from benchmarks.machine import machine
from benchmarks.pages import ASIDE, DOCS, folder_of
from benchmarks.report import save, terminal
from benchmarks.runner import FULL, QUICK, Plan, Result, measure
from benchmarks.summary import Summary


def main() -> None:
    """Measure what the arguments say."""
    arguments = _arguments()
    if arguments.render:
        kept = json.loads(arguments.render.read_text())
        results = [Result(**one) for one in kept["results"]]
        page = save(folder_of(arguments.render), kept["plan"], kept["machine"], results, kept["command"])
    else:
        plan = _plan(arguments)
        is_whole = plan == FULL
        with ExitStack() as stack:
            version = _compile(stack) if any(client.name == C for client in plan.clients) else ""
            url = stack.enter_context(running_broker(arguments.url))
            facts = machine(url) | ({"librabbitmq": version} if version else {})
            if not version:
                plan = replace(plan, clients=tuple(client for client in plan.clients if client.name != C))
            results = measure(plan, url, lambda line: print(line, flush=True))
        folder = arguments.output or (DOCS if is_whole else ASIDE)
        page = save(folder, plan.name, facts, results, " ".join(["python -m benchmarks", *sys.argv[1:]]))
    print(f"\n{terminal(Summary(results))}\n\nWritten: {page}")
    if failed := [result for result in results if result.error]:
        sys.exit(f"{len(failed)} runs failed: " + "; ".join(f"{one.case} {one.client}: {one.error}" for one in failed))


def _compile(stack: ExitStack) -> str:
    """Compile the C client for as long as the stack is open. Returns its version; nothing if it cannot be compiled."""
    try:
        return stack.enter_context(compiled())
    except CannotCompile as error:
        print(f"{C} is left out: {error}", flush=True)
        return ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, in about two minutes")
    parser.add_argument("--rounds", type=int, help="how often each run is made")
    parser.add_argument("--scale", type=float, help="how long a run is; 1 is about a second")
    parser.add_argument("--case", nargs="+", choices=list(BY_NAME), help="only these cases")
    parser.add_argument("--client", nargs="+", choices=[client.name for client in CLIENTS], help="only these clients")
    parser.add_argument("--url", help="a broker that runs already, instead of one started for the measurement")
    parser.add_argument("--output", type=Path, help="the folder to write to")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write the page and the picture anew")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        plan = replace(plan, rounds=arguments.rounds)
    if arguments.scale is not None:
        plan = replace(plan, scale=arguments.scale)
    if arguments.case:
        plan = replace(plan, cases=tuple(BY_NAME[name] for name in arguments.case))
    if arguments.client:
        plan = replace(plan, clients=tuple(client for client in CLIENTS if client.name in arguments.client))
    return plan


if __name__ == "__main__":
    main()
