"""Demands and selectors: what an Acquire asks for, in the canonical form that fingerprints compare."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.domain import limits
from blockyard_server.domain.errors import LimitExceeded
from blockyard_server.domain.requests import Demand, Operator, Selector, Term
from blockyard_server.rpc.fields import (
    LABEL_KEY_RULE,
    LABEL_VALUE_RULE,
    Violations,
    decode_quantities,
    is_label_key,
    is_label_value,
    quoted,
)
from blockyard_server.rpc.names import decode_instance_of

_OPERATORS: Final[dict[int, Operator]] = {
    pb.LabelExpression.IN: "IN",
    pb.LabelExpression.NOT_IN: "NOT_IN",
    pb.LabelExpression.EXISTS: "EXISTS",
    pb.LabelExpression.DOES_NOT_EXIST: "DOES_NOT_EXIST",
}
_WITH_VALUES: Final = ("IN", "NOT_IN")
_term_order: Final = attrgetter("key", "operator", "values")


def decode_demands(demands: Sequence[pb.Demand], fleet: str, bad: Violations) -> tuple[Demand, ...]:
    """The field `demands`, each by itself and all together. Raises LimitExceeded."""
    if not 1 <= len(demands) <= limits.MAX_DEMANDS:
        bad.append(("demands", f"has {len(demands)} entries; 1..{limits.MAX_DEMANDS} are allowed"))
        return ()
    check_selector_values([demands])
    decoded: list[Demand] = []
    instances = blocks = 0
    for i, message in enumerate(demands):
        demand = _decode_demand(message, f"demands[{i}]", fleet, bad)
        decoded.append(demand)
        instances += demand.instances
        blocks += demand.instances * demand.blocks
    if instances > limits.MAX_INSTANCES_PER_REQUEST:
        problem = f"asks for {instances} instances in all; at most {limits.MAX_INSTANCES_PER_REQUEST} are allowed"
        bad.append(("demands", problem))
    if blocks > limits.MAX_BLOCKS_PER_REQUEST:
        problem = f"asks for {blocks} blocks in all; at most {limits.MAX_BLOCKS_PER_REQUEST} are allowed"
        bad.append(("demands", problem))
    return tuple(decoded)


def check_selector_values(acquires: Sequence[Sequence[pb.Demand]]) -> None:
    """Counts what the demands of these acquires select by, before any of it is decoded. Raises LimitExceeded.

    What is refused for its number of demands or expressions is not looked at, nor are the values of too many
    expressions: a request has room for half a million of each.
    """
    demands = [demand for demands in acquires if len(demands) <= limits.MAX_DEMANDS for demand in demands]
    expressions = [demand.selector.match_expressions for demand in demands]
    expressions = [some for some in expressions if len(some) <= limits.MAX_SELECTOR_EXPRESSIONS]
    count = sum([len(demand.instance_names) + len(demand.selector.match_labels) for demand in demands])
    _expect_at_most(count + sum(map(len, expressions)))
    _expect_at_most(count + sum([max(1, len(one.values)) for some in expressions for one in some]))


def _expect_at_most(count: int) -> None:
    most = limits.MAX_SELECTOR_VALUES_PER_REQUEST
    if count > most:
        message = (
            f"the demands select by {count} label values and instance names in all, and at most {most} are allowed; "
            "give the instances a label that says in one value what the request lists, or send the demands one by one"
        )
        raise LimitExceeded(message, limit="selector_values_per_request", maximum=most)


def blocks_asked(demands: Sequence[Demand]) -> int:
    """How many blocks these ask for, as far as that is known before they are placed."""
    return sum([demand.instances * demand.blocks for demand in demands])


def _decode_demand(demand: pb.Demand, path: str, fleet: str, bad: Violations) -> Demand:
    instances = demand.instances or 1
    blocks = demand.blocks
    exclusive = demand.exclusive
    requirements: tuple[tuple[str, int], ...] = ()
    if not 1 <= instances <= limits.MAX_INSTANCES_PER_REQUEST:
        bad.append((f"{path}.instances", f"must be 0..{limits.MAX_INSTANCES_PER_REQUEST}"))
    if not 0 <= blocks <= limits.MAX_BLOCKS_PER_INSTANCE:
        bad.append((f"{path}.blocks", f"must be 0..{limits.MAX_BLOCKS_PER_INSTANCE}"))
    if demand.requirements:
        requirements = decode_quantities(demand.requirements, f"{path}.requirements", 1, bad)
        if blocks or exclusive:
            bad.append((f"{path}.requirements", "must be empty where blocks or exclusive is set"))
    elif not blocks and not exclusive:
        bad.append((f"{path}.blocks", "one of blocks, requirements and exclusive is required"))
    return Demand(
        instances=instances,
        blocks=blocks,
        requirements=requirements,
        exclusive=exclusive,
        selector=_decode_selector(demand.selector, f"{path}.selector", bad) if demand.HasField("selector") else (),
        instance_names=_decode_instance_names(demand, path, fleet, bad) if demand.instance_names else (),
    )


def _decode_instance_names(demand: pb.Demand, path: str, fleet: str, bad: Violations) -> tuple[str, ...]:
    # The names are a set: their order and repetition must not tell two requests apart.
    names = demand.instance_names
    if len(names) > limits.MAX_INSTANCE_NAMES:
        problem = f"has {len(names)} entries; at most {limits.MAX_INSTANCE_NAMES} are allowed"
        bad.append((f"{path}.instance_names", problem))
        return ()
    ids = {decode_instance_of(fleet, name, f"{path}.instance_names[{i}]", bad) for i, name in enumerate(names)}
    return tuple(sorted(ids))


def _decode_selector(selector: pb.LabelSelector, path: str, bad: Violations) -> Selector:
    labels, expressions = selector.match_labels, selector.match_expressions
    terms: set[Term] = set()
    if len(labels) > limits.MAX_SELECTOR_LABELS:
        problem = f"has {len(labels)} entries; at most {limits.MAX_SELECTOR_LABELS} are allowed"
        bad.append((f"{path}.match_labels", problem))
        return ()
    for key, value in labels.items():
        if not is_label_key(key):
            bad.append((f"{path}.match_labels", f"key {quoted(key)}: {LABEL_KEY_RULE}"))
        elif not is_label_value(value):
            bad.append((f"{path}.match_labels[{key}]", LABEL_VALUE_RULE))
        terms.add(Term(key, "IN", (value,)))
    if len(expressions) > limits.MAX_SELECTOR_EXPRESSIONS:
        problem = f"has {len(expressions)} entries; at most {limits.MAX_SELECTOR_EXPRESSIONS} are allowed"
        bad.append((f"{path}.match_expressions", problem))
        return ()
    for i, expression in enumerate(expressions):
        term = _decode_expression(expression, f"{path}.match_expressions[{i}]", bad)
        if term is not None:
            terms.add(term)
    return tuple(sorted(terms, key=_term_order))


def _decode_expression(expression: pb.LabelExpression, path: str, bad: Violations) -> Term | None:
    values = expression.values
    operator = _OPERATORS.get(expression.operator)
    if not is_label_key(expression.key):
        bad.append((f"{path}.key", LABEL_KEY_RULE))
    if operator is None:
        bad.append((f"{path}.operator", "must be IN, NOT_IN, EXISTS or DOES_NOT_EXIST"))
        return None
    if operator not in _WITH_VALUES:
        if values:
            bad.append((f"{path}.values", f"must be empty for {operator}"))
        return Term(expression.key, operator)
    if not 1 <= len(values) <= limits.MAX_EXPRESSION_VALUES:
        problem = f"has {len(values)} entries; 1..{limits.MAX_EXPRESSION_VALUES} are allowed for {operator}"
        bad.append((f"{path}.values", problem))
        return None
    for i, value in enumerate(values):
        if not is_label_value(value):
            bad.append((f"{path}.values[{i}]", LABEL_VALUE_RULE))
    return Term(expression.key, operator, tuple(sorted(set(values))))
