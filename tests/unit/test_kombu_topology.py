"""What the application declared is declared again where a message needs it, and no more."""

from __future__ import annotations

from typing import Any

from understudy.failover.notifier import Notifier
from understudy.kombu.topology import Declaration, Topology
from understudy.kombu.ways import Ways


def declared(*calls: tuple[str, dict[str, Any]], epoch: int = 1) -> Topology:
    topology = Topology()
    for method, arguments in calls:
        topology.record(method, arguments, epoch)
    return topology


def needed(topology: Topology, exchange: str, key: str, epoch: int = 2) -> list[str]:
    return [
        f"{call.method} {dict(call.arguments).get('queue') or dict(call.arguments)['exchange']}"
        for call in topology.needed(exchange, key, epoch)
    ]


ORDERS = (
    ("exchange_declare", {"exchange": "shop", "type": "topic"}),
    ("queue_declare", {"queue": "orders"}),
    ("queue_bind", {"queue": "orders", "exchange": "shop", "routing_key": "order.*"}),
)
OTHER = (
    ("exchange_declare", {"exchange": "mail", "type": "direct"}),
    ("queue_declare", {"queue": "letters"}),
    ("queue_bind", {"queue": "letters", "exchange": "mail", "routing_key": "l"}),
)


def test_a_way_is_its_exchange_its_queues_and_their_bindings_in_order() -> None:
    topology = declared(*ORDERS, *OTHER)
    assert needed(topology, "shop", "order.new") == [
        "exchange_declare shop",
        "queue_declare orders",
        "queue_bind orders",
    ]


def test_nothing_is_needed_in_the_epoch_of_the_declaration() -> None:
    assert needed(declared(*ORDERS), "shop", "order.new", epoch=1) == []


def test_the_default_exchange_needs_the_queue_of_that_name() -> None:
    topology = declared(*ORDERS)
    assert needed(topology, "", "orders") == ["queue_declare orders"]
    assert needed(topology, "", "unknown") == []


def test_bindings_between_exchanges_are_followed_and_cycles_end() -> None:
    topology = declared(
        *ORDERS,
        ("exchange_declare", {"exchange": "front", "type": "fanout"}),
        ("exchange_bind", {"destination": "shop", "source": "front", "routing_key": ""}),
        ("exchange_bind", {"destination": "front", "source": "shop", "routing_key": ""}),
    )
    calls = [call.method for call in topology.needed("front", "", 2)]
    assert calls.count("exchange_bind") == 2
    assert "queue_bind" in calls
    assert topology.is_fanout("front")
    assert not topology.is_fanout("shop")


def test_what_was_deleted_or_unbound_is_forgotten() -> None:
    topology = declared(*ORDERS)
    topology.record("queue_unbind", {**ORDERS[2][1]}, 1)
    assert needed(topology, "shop", "x") == ["exchange_declare shop"]
    topology = declared(*ORDERS)
    topology.record("queue_delete", {"queue": "orders"}, 1)
    assert needed(topology, "shop", "x") == ["exchange_declare shop"]
    topology = declared(*ORDERS)
    topology.record("exchange_delete", {"exchange": "shop"}, 1)
    assert needed(topology, "shop", "x") == []


def test_declare_applies_each_once_for_each_epoch() -> None:
    topology = declared(*ORDERS)
    applied: list[Declaration] = []
    ways = Ways(topology, Notifier())
    ways.prepare("shop", "x", 2, applied.append)
    ways.prepare("shop", "x", 2, applied.append)
    assert [call.method for call in applied] == ["exchange_declare", "queue_declare", "queue_bind"]
    ways.forget()
    ways.prepare("shop", "x", 2, applied.append)
    assert len(applied) == 3


def test_a_deferred_declaration_is_done_before_the_next_message_in_any_epoch() -> None:
    topology = declared(*ORDERS)
    applied: list[Declaration] = []
    ways = Ways(topology, Notifier())
    ways.prepare("shop", "x", 1, applied.append)
    assert applied == []
    topology.defer("queue_declare", {"queue": "orders"})
    ways.prepare("shop", "x", 1, applied.append)
    ways.prepare("shop", "x", 1, applied.append)
    assert [call.method for call in applied] == ["queue_declare"]


def test_a_repeated_declaration_is_kept_once() -> None:
    topology = declared(*ORDERS, *ORDERS, epoch=1)
    assert len(topology.needed("shop", "x", 2)) == 3


def test_dead_letters_and_alternates_have_a_way_too() -> None:
    topology = declared(
        ("queue_declare", {"queue": "retry", "arguments": {"x-dead-letter-exchange": "shop"}}),
        *ORDERS,
        (
            "exchange_declare",
            {"exchange": "front", "type": "direct", "arguments": {"alternate-exchange": "retry-x"}},
        ),
        ("exchange_declare", {"exchange": "retry-x", "type": "fanout"}),
        ("queue_bind", {"queue": "retry", "exchange": "retry-x", "routing_key": ""}),
    )
    assert "queue_bind orders" in needed(topology, "", "retry")
    everything = needed(topology, "front", "k")
    assert {"exchange_declare retry-x", "queue_declare retry", "queue_declare orders"} <= set(
        everything
    )


def test_a_queue_that_is_its_own_dead_letter_target_ends() -> None:
    own = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "retry"}
    topology = declared(("queue_declare", {"queue": "retry", "arguments": own}))
    assert needed(topology, "", "retry") == ["queue_declare retry"]
