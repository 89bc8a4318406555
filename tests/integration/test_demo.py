"""The demonstration's pieces, and one short run of it; the whole takes two minutes."""

from __future__ import annotations

import io
import json
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from understudy.testing.brokers import RabbitMQ
from understudy.testing.demo import queues, report
from understudy.testing.demo.__main__ import main
from understudy.testing.demo.brokers import Brokers
from understudy.testing.demo.outcome import Event, Outcome
from understudy.testing.demo.plan import Load, Step, celery_list, failover
from understudy.testing.demo.records import ERROR, QUEUE, SENT, Reader, Recorder
from understudy.testing.demo.scenario import Run
from understudy.testing.demo.tally import Tally
from understudy.testing.demo.view import LiveView, PlainView, Status, sparkline

ADDRESSES = {"A": "amqp://guest:secret@127.0.0.1:1", "B": "amqp://guest:secret@127.0.0.1:2"}
CLEAN = Outcome(
    contestant=failover(ADDRESSES, Load(), "/"),
    events=[Event(5.0, "SIGKILL", "A"), Event(30.0, "end of publishing")],
    sent=100,
    executed=100,
    lost=0,
    stranded=0,
    duplicates=1,
    errors={},
    first_error=None,
    longest_call=4.0,
    longest_pause=4.1,
    publishing=30.0,
    hung_publishers=0,
    stuck_workers=[],
)


def printed(*outcomes: Outcome) -> str:
    console = Console(file=io.StringIO(), width=80)
    report.print_report(console, {"celery": "5"}, outcomes)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_reader_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "records"
    reader = Reader(path)
    Recorder(path).write("one", 1)
    assert list(reader.new()) == [["one", 1]]
    with path.open("a") as file:
        file.write('["two"')
        file.flush()
        assert list(reader.new()) == []
        file.write(", 2]\n")
    assert list(reader.new()) == [["two", 2]]


def test_the_tally_tells_executed_from_repeated_and_missing(tmp_path: Path) -> None:
    sent = Recorder(tmp_path / "sent.publisher-1")
    sent.write(SENT, "x", 1.0, 1.1)
    sent.write(SENT, "y", 2.0, 4.5)
    sent.write(ERROR, "SendTimeout: message z", 5.0, 6.0)
    Recorder(tmp_path / "executed.A.1").write("x", 1.2)
    again = Recorder(tmp_path / "executed.B.2")
    again.write("x", 3.0)
    again.write("z", 6.5)
    tally = Tally(tmp_path)
    assert tally.poll()
    assert not tally.poll()
    assert tally.sent - tally.executed == {"y"}
    assert (tally.duplicates, dict(tally.errors)) == (1, {"SendTimeout": 1})
    assert tally.longest_call == 2.5
    assert tally.longest_pause(1.0, 7.0) == pytest.approx(5.3)  # a repetition is no progress
    assert tally.active(7.0) == "B"
    assert tally.rate(7.0) == 1


@pytest.mark.parametrize(
    ("outcome", "is_clean", "says"),
    [
        (CLEAN, True, "nothing lost"),
        (replace(CLEAN, lost=2), False, "lost 2"),
        (replace(CLEAN, errors={"SendTimeout": 3}), False, "raised 3"),
        (replace(CLEAN, hung_publishers=1), False, "hung"),
        (replace(CLEAN, sent=0, executed=0), False, "lost 0"),
    ],
)
def test_the_verdict_follows_the_numbers(outcome: Outcome, is_clean: bool, says: str) -> None:
    assert outcome.is_clean is is_clean
    assert says in printed(outcome).splitlines()[-1]


def test_the_report_fits_80_columns_and_names_no_password() -> None:
    theirs = replace(CLEAN, contestant=celery_list(ADDRESSES, Load(), "/"), hung_publishers=1)
    text = printed(CLEAN, theirs)
    assert "hung, > 4.0 s" in text
    assert max(map(len, text.splitlines())) <= 80
    both = json.dumps(report.as_json(Load(), {}, [CLEAN, theirs]))
    assert "secret" not in text + both
    assert json.loads(both)["ok"] is True  # the peer's failure is not ours


def test_both_views_show_a_moment_within_80_columns() -> None:
    moment = Status("Understudy", 12.0, "A is dead", {"A": "killed", "B": "up"}, "B", 10, 8, 0, 200)
    for make in (LiveView, PlainView):
        console = Console(file=io.StringIO(), width=80, force_terminal=make is LiveView)
        with make(console) as view:
            view.say(">> 5.0 s SIGKILL A")
            view.show(moment)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert "SIGKILL A" in text
        assert "200/s" in text
    assert sparkline(deque([0, 100, 200])) == " ▅█"


def test_the_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--runs", "understudy,x"], ["--rate", "0"], ["--publishers", "0"]):
        with pytest.raises(SystemExit):
            main(wrong)
        assert wrong[0] in capsys.readouterr().err


@pytest.mark.integration
@pytest.mark.chaos
def test_a_run_accounts_for_every_task(rabbits: tuple[RabbitMQ, RabbitMQ], tmp_path: Path) -> None:
    nodes = dict(zip("AB", rabbits, strict=True))
    for node in rabbits:
        queues.taken(node, "/", QUEUE)
    contestant = failover({name: node.uri for name, node in nodes.items()}, Load(), "/")
    steps = [Step("kill", 1.5), Step("start", 0.2), Step("end", 1.0)]
    view = PlainView(Console(file=io.StringIO()))
    outcome = Run(
        contestant, Brokers(nodes, "up"), Load(rate=50), steps, tmp_path, view
    ).carry_out()
    assert outcome.is_clean, outcome
    assert outcome.executed == outcome.sent > 50
    assert (outcome.stranded, outcome.stuck_workers) == (0, [])
    done = [(event.what, event.broker) for event in outcome.events]
    assert done[:3] == [("SIGKILL", "A"), ("start again", "A"), ("up again", "A")]
