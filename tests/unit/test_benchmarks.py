"""The evaluation of the benchmark's measurements; ``make bench-quick`` does the measuring."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cases import (
    AIO_PIKA,
    AIO_PIKA_UVLOOP,
    BY_NAME,
    CASES,
    CLIENTS,
    FAIRNESS,
    LATENCY,
    RAW,
    C,
    forms_of_aio_pika,
)
from benchmarks.clients.with_librabbitmq import CannotCompile, compiled
from benchmarks.pages import DOCS, ROOT, folder_of, link_to_raw, raw_of, write_raw
from benchmarks.picture import draw
from benchmarks.profile_worker import TIMED
from benchmarks.report import page, terminal
from benchmarks.runner import FULL, QUICK, Result, task_of, turns
from benchmarks.startup_report import COLD, COMPILED, WARM
from benchmarks.startup_report import page as startup_page
from benchmarks.summary import Spread, Summary
from benchmarks.task import Task, encode
from benchmarks.worker import describe

OURS, *_ = CLIENTS
PERCENTILES = {"count": 100.0, "p50": 100.0, "p99": 200.0, "p99.9": 300.0, "max": 400.0}
LATENCIES = {"rpc": ["call"], "latency": ["confirm", "end to end"], "fairness": ["alone", "beside", "loop late"]}


def result(case: str, client: str, number: int, *, speed: float = 1000.0, error: str = "") -> Result:
    latencies = dict.fromkeys(LATENCIES.get(case, []), PERCENTILES)
    return Result(case, client, number, 1000, 1000 / speed, 0.01, latencies, error)


def everything() -> list[Result]:
    return [result(case.name, client.name, number) for number, case, client in turns(FULL)]


def test_every_round_begins_with_another_client_and_leaves_none_out() -> None:
    plan = replace(FULL, rounds=len(CLIENTS), cases=(BY_NAME["publish"],))
    order = [client.name for _, _, client in turns(plan)]
    rounds = [order[start : start + len(CLIENTS)] for start in range(0, len(order), len(CLIENTS))]
    assert {names[0] for names in rounds} == {client.name for client in CLIENTS}
    assert all(sorted(names) == sorted(rounds[0]) for names in rounds)


def test_peers_with_a_target_can_do_the_case() -> None:
    able = {(case, client.name) for client in CLIENTS for case in client.cases}
    assert all((case.name, peer) in able for case in CASES for peer in case.targets)


def test_a_task_survives_the_way_to_its_process() -> None:
    task = task_of(QUICK, LATENCY, OURS, "amqp://localhost/")
    assert Task(**json.loads(encode(task))) == task
    assert task.messages == QUICK.rate * QUICK.seconds


def test_a_ratio_is_formed_within_a_round() -> None:
    speeds = {1: (100, 1000), 2: (1000, 5000), 3: (10, 90)}
    results = [
        one
        for number, (theirs, ours) in speeds.items()
        for one in (
            result("publish", AIO_PIKA, number, speed=theirs),
            result("publish", OURS.name, number, speed=ours),
        )
    ]
    ratio = Summary(results).ratio(BY_NAME["publish"], OURS, AIO_PIKA)
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((9, 5, 10))


def test_a_round_in_which_one_of_the_two_failed_gives_no_ratio() -> None:
    results = [result("publish", OURS.name, 1), result("publish", AIO_PIKA, 1, error="boom")]
    summary = Summary(results)
    assert summary.ratio(BY_NAME["publish"], OURS, AIO_PIKA) is None
    assert "failed: boom" in page(summary, {}, "command", 1)


def test_less_is_better_for_a_latency() -> None:
    summary = Summary([result("rpc", client, 1) for client in (OURS.name, AIO_PIKA, RAW)])
    met = {verdicts[0].peer: verdicts[0].is_met for verdicts in summary.verdicts(BY_NAME["rpc"])}
    assert met == {AIO_PIKA: False, RAW: True}


def test_the_lead_is_over_the_best_form_of_aio_pika() -> None:
    results = [
        result("confirms", OURS.name, 1, speed=6000),
        result("confirms", AIO_PIKA, 1, speed=500),
        result("confirms", AIO_PIKA_UVLOOP, 1, speed=800),
        result("tasks", AIO_PIKA, 1, speed=1000),
    ]
    confirms = BY_NAME["confirms"]
    lead = Summary(results).lead(confirms, OURS, forms_of_aio_pika(confirms))
    assert lead == pytest.approx(Spread(6, 6, 6))


def test_a_lead_in_latency_is_the_peers_over_ours() -> None:
    rpc = BY_NAME["rpc"]
    half = replace(result("rpc", OURS.name, 1), latencies={"call": {**PERCENTILES, "p50": 50.0}})
    lead = Summary([half, result("rpc", AIO_PIKA, 1)]).lead(rpc, OURS, forms_of_aio_pika(rpc))
    assert lead == pytest.approx(Spread(2, 2, 2))


def test_a_client_that_was_not_measured_has_no_row() -> None:
    left_out = [one for one in everything() if one.client != C]
    summary = Summary(left_out)
    assert C not in page(summary, {}, "command", 1)
    assert C not in terminal(summary)


def test_without_a_compiler_the_c_client_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CannotCompile, match="no C compiler"), compiled():
        pass


def test_without_the_library_the_c_client_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'source.c:1:10: fatal error: amqp.h: No such file or directory' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(CannotCompile, match=r"^amqp\.h: No such file or directory$"), compiled():
        pass


def test_a_large_body_counts_out_and_in() -> None:
    figure = Summary([result("large", OURS.name, 1, speed=100)]).figure(BY_NAME["large"], OURS)
    assert figure == pytest.approx(Spread(200, 200, 200))


def test_percentiles_are_values_that_were_measured() -> None:
    told = describe([number / 1e6 for number in range(1, 1001)])
    assert told == pytest.approx({"count": 1000, "p50": 500, "p99": 990, "p99.9": 999, "max": 1000})


def test_the_page_tells_of_every_case_and_client() -> None:
    text = page(Summary(everything()), {"processor": "abacus"}, "command", 5)
    assert all(case.title in text for case in CASES)
    assert all(client.name in text for client in CLIENTS)
    assert "Latency at half load" in text
    assert "abacus" in text


def test_what_the_profile_times_is_there() -> None:
    assert all(callable(getattr(owner, name)) for owner, name, _ in TIMED)


def test_the_startup_page_has_the_first_confirm_of_each_client() -> None:
    imported = {"ms": 1.0, "cpu": 1.0, "read": 0.0, "modules": 3}
    kept = {
        "command": "command",
        "rounds": 1,
        "machine": {"processor": "abacus"},
        "imports": {state: {"anyamqp": [imported]} for state in (COMPILED, COLD, WARM)},
        "modules": {"anyamqp.errors": [1.0]},
        "first_confirms": {"anyamqp": [{"ms": 7.0, "cpu": 5.0, "modules": 0}]},
        "connects": {"anyamqp": [1.0]},
        "round_trips": {"anyamqp": [3.0]},
    }
    assert "| anyamqp | 7.0 (7.0 to 7.0) | 5.0 (5.0 to 5.0) | 0 |" in startup_page(kept)


def test_the_terminal_has_the_paced_cases_too() -> None:
    text = terminal(Summary(everything()))
    assert "Latency at half load" in text
    assert FAIRNESS.title.capitalize() in text


def test_the_same_results_give_the_same_picture(tmp_path: Path) -> None:
    summary = Summary(everything())
    for name in ("one.svg", "two.svg"):
        draw(summary, tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two
    assert b"py-amqp" in one


# --- where the figures are kept -------------------------------------------------------------------------------------


def test_raw_figures_of_a_page_in_docs_are_kept_with_the_benchmarks() -> None:
    raw = raw_of(DOCS, "growth")
    assert raw == ROOT / "benchmarks" / "results" / "growth.json"
    assert folder_of(raw) == DOCS


def test_raw_figures_of_a_page_elsewhere_stay_with_it(tmp_path: Path) -> None:
    write_raw(tmp_path, "growth", {"command": "none"})
    raw = raw_of(tmp_path, "growth")
    assert raw.read_text() == '{\n "command": "none"\n}\n'
    assert folder_of(raw) == tmp_path


@pytest.mark.parametrize("page_of", ["benchmarks", "growth", "memory", "recovery", "startup"])
def test_page_in_docs_links_to_its_raw_figures(page_of: str) -> None:
    assert link_to_raw(page_of) in (DOCS / f"{page_of}.md").read_text(encoding="utf-8")
    assert raw_of(DOCS, page_of).is_file()
