"""docs/observing.md says what the program does: events, fields, metrics, rules."""

import re

import pytest

from ovfuse.events import FACTS, Event
from ovfuse.serve.metrics.collector import NAMES
from tests.test_docs import ROOT, rows_of

TEXT = (ROOT / "docs" / "observing.md").read_text("utf-8")
RULES = re.search(
    r"^<!-- rules -->\n```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE
)


def first_cells(heading: str) -> list[str]:
    return [row[0].strip("`") for row in rows_of(TEXT, heading)]


def test_events_are_those_of_the_code() -> None:
    rows = {row[0].strip("`"): row[1].strip("`") for row in rows_of(TEXT, "event")}

    assert rows == {event.name: event.value for event in Event}
    assert all(re.fullmatch("[0-9a-f]{32}", event.value) for event in Event)
    assert len({event.value for event in Event}) == len(Event)


def test_fields_are_those_of_the_code() -> None:
    own = {f"OVFUSE_{name.upper()}" for name in FACTS}

    assert set(first_cells("field")) == {"MESSAGE_ID", "OVFUSE_MOUNTPOINT", *own}


def test_examples_filter_by_what_there_is() -> None:
    (block,) = re.findall(
        r"^```sh\n(journalctl .*?)^```$", TEXT, re.DOTALL | re.MULTILINE
    )
    numbers = re.findall(r"MESSAGE_ID=(\w+)", block)

    assert numbers
    assert set(numbers) <= {event.value for event in Event}
    fields = set(re.findall(r"OVFUSE_\w+", block))
    assert fields <= set(first_cells("field"))


def test_metrics_are_those_of_the_code() -> None:
    assert sorted(first_cells("metric")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_as_prometheus_wants_them(name: str) -> None:
    assert re.fullmatch("ovfuse_[a-z_]+", name)
    units = {"bytes": "_bytes", "timestamp": "_timestamp_seconds"}
    for word, end in units.items():
        assert word not in name or name.endswith(end)


def test_rules_ask_for_metrics_that_there_are() -> None:
    assert RULES is not None
    rules = re.findall(
        r"^      - alert: (\w+)\n        expr: (.+)\n(        for: \d+[smh]\n)?",
        RULES[1],
        re.MULTILINE,
    )

    head = "groups:\n  - name: ovfuse\n    rules:\n"
    whole = [f"      - alert: {a}\n        expr: {e}\n{f}" for a, e, f in rules]
    assert RULES[1] == head + "".join(whole)
    assert len({name for name, _, _ in rules}) == len(rules) > 5
    labels = {s for row in rows_of(TEXT, "metric") for s in row[1].split(", ")}
    for name, expression, _ in rules:
        asked = set(re.findall(r"\bovfuse_\w+", expression))
        assert asked, name
        assert asked <= set(NAMES), name
        for used in re.findall(r"(?:by|on) \(([\w, ]+)\)", expression):
            assert set(used.split(", ")) <= labels | {"instance"}
