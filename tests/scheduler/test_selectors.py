"""Test which items selectors select: within `max_queries` and the budget, with precedence for current items."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import VIP, build_test_config

from braze_exporter.braze.kinds import KINDS
from braze_exporter.braze.lists import (
    CAMPAIGN_LIST,
    CANVAS_LIST,
    EVENT_LIST,
    PRODUCT_LIST,
    SEGMENT_LIST,
    ListEndpoint,
    ListItem,
)
from braze_exporter.braze.query import Query
from braze_exporter.config.document import ConfigError
from braze_exporter.config.loading import load_config
from braze_exporter.scheduler import selectors
from braze_exporter.scheduler.plan import ConfiguredSubject, Plan, build_plan, counter_sources
from braze_exporter.scheduler.selectors import ListSnapshot, expand_selectors, name_key, required_lists

ONE, TWO, THREE = (f"aaaaaaaa-0000-0000-0000-00000000000{n}" for n in (1, 2, 3))


def snapshots(
    items_by_list: Mapping[ListEndpoint, Sequence[ListItem | str]], calls: int = 1
) -> dict[tuple[str, ListEndpoint | None], ListSnapshot]:
    """Return snapshots of the workspace's lists; a text stands for an item with that name and id."""
    return {
        ("production", list_endpoint): ListSnapshot(
            tuple(row if isinstance(row, ListItem) else ListItem(row, row) for row in rows), calls
        )
        for list_endpoint, rows in items_by_list.items()
    }


def plan_of(
    sections: Mapping[str, object],
    items_by_list: Mapping[ListEndpoint, Sequence[ListItem | str]],
    current: Sequence[Query] = (),
    calls: int = 1,
    **settings: object,
) -> Plan:
    """Return the plan of a config, expanded with these lists."""
    config = build_test_config(sections, **settings)
    identities = {query.identity for query in current}
    return expand_selectors(build_plan(config), config.settings, snapshots(items_by_list, calls), current=identities)


def describe_queries(plan: Plan) -> list[str]:
    """Return short descriptions of a plan's queries."""
    return [
        " ".join(filter(None, (query.request_value, query.app, query.segment, query.unit))) for query in plan.queries
    ]


def selection_counts(plan: Plan) -> dict[str, tuple[int, int, int]]:
    """Return the numbers of listed, matched and skipped items of each kind."""
    return {
        item.kind.section: (item.listed_count, item.matched_count, item.skipped_count)
        for item in plan.selection_results
    }


def test_regex_selects_matches_in_name_order() -> None:
    """A regex selects the items it matches, for each app of its entry; queries of named entries come first."""
    plan = plan_of(
        {"custom_events": [{"regex": "cart_.*", "apps": ["all", "ios"], "baseline": {"weeks": 3}}, {"event": "b"}]},
        {EVENT_LIST: ["cart_b", "b", "cart_a", "CART_c", "a cart_d", " "]},
    )
    assert describe_queries(plan) == ["b hour", "cart_a hour", "cart_a ios hour", "cart_b hour", "cart_b ios hour"]
    assert {query.baseline_weeks for query in plan.queries[1:]} == {3}
    assert selection_counts(plan) == {"custom_events": (6, 2, 0)}
    (usage,) = plan.pool_usage
    assert (usage.query_count, usage.hourly_calls) == (5, 60)


def test_selector_without_list_has_no_queries() -> None:
    """Without the list, a plan has only the queries of named entries, and knows which lists are required."""
    written = build_test_config({"custom_events": [{"regex": ".*"}, {"event": "a"}], "canvases": [{"tag": "x"}]})
    plan = build_plan(written)
    assert expand_selectors(plan, written.settings, {}) == plan
    assert describe_queries(plan) == ["a hour"]
    assert (plan.selection_results, plan.configured_subjects) == ((), ())
    assert required_lists(plan) == {"production": (EVENT_LIST, CANVAS_LIST)}


def test_counter_waits_for_finer_unit() -> None:
    """A daily query has no counter while an hourly selector that matches its event waits for its list."""
    written = build_test_config(
        {"custom_events": [{"regex": "a.*"}, *({"event": name, "unit": "day"} for name in ("a1", "b"))]}
    )
    plan, pending = build_plan(written), {("production", EVENT_LIST)}
    waiting = expand_selectors(plan, written.settings, {}, pending=pending)
    assert [(query.subject, query.has_counter) for query in waiting.queries] == [("a1", False), ("b", True)]
    assert [query.subject for query in counter_sources(waiting.queries).values()] == ["b"]
    known = expand_selectors(plan, written.settings, snapshots({EVENT_LIST: ["a1", "b"]}))
    assert [(query.subject, query.unit) for query in counter_sources(known.queries).values()] == [
        ("a1", "hour"),
        ("b", "day"),
    ]
    never = expand_selectors(plan, written.settings, {})  # the key may not read the list
    assert [(query.subject, query.unit) for query in counter_sources(never.queries).values()] == [
        ("a1", "day"),
        ("b", "day"),
    ]


def test_segments_with_same_name_are_disambiguated() -> None:
    """A segment whose name equals the disambiguated name of another gets its own id as a suffix."""
    rows = [ListItem(ONE, "Sale"), ListItem(TWO, "Sale"), ListItem(THREE, f"Sale ({ONE})")]
    plan = plan_of({"segment_users": [{"regex": ".*"}]}, {SEGMENT_LIST: rows})
    names = [query.subject for query in plan.queries]
    assert len(names) == len(set(names)) == 3
    assert f"Sale ({TWO})" in names


def test_named_entry_wins_over_selector() -> None:
    """A query of a named entry replaces the same query of a selector; the selector's other queries stay."""
    plan = plan_of(
        {
            "custom_events": [
                {"regex": ".*", "apps": ["all", "ios"], "refresh_interval": "10m"},
                {"event": "a", "refresh_interval": "1h"},
                {"event": "a", "unit": "day"},
                {"regex": "a|b", "refresh_interval": "20m"},
                {"regex": "b", "unit": "day"},
            ]
        },
        {EVENT_LIST: ["a", "b"]},
    )
    assert [(query.request_value, query.app, query.unit, query.refresh_seconds) for query in plan.queries] == [
        ("a", "", "hour", 3_600),
        ("a", "", "day", 900),
        ("a", "ios", "hour", 600),
        ("b", "", "hour", 600),
        ("b", "ios", "hour", 600),
        ("b", "", "day", 900),
    ]
    assert selection_counts(plan) == {"custom_events": (2, 2, 0)}


def test_selector_expands_for_every_kind() -> None:
    """Segments, campaigns and Canvases are requested by id and labelled by name; products are requested by name."""
    every = {"regex": ".*"}
    plan = plan_of(
        {
            "segment_users": [{"segment": "vip"}, every],
            "campaigns": [{"campaign": ONE}, {"tag": "cart"}, {"regex": "Old.*", "tag": "x"}],
            "canvases": [every],
            "purchases": [every, {}],
            "revenue": [{"regex": "b"}],
        },
        {
            SEGMENT_LIST: [ListItem(VIP.upper(), "VIP"), ListItem(TWO, "vip"), ListItem(THREE, "QA", is_tracked=False)],
            CAMPAIGN_LIST: [
                ListItem(ONE, "Welcome", ("cart",)),
                ListItem(TWO, "Old", ("cart", "x")),
                ListItem(THREE, "Older", ("y",)),
            ],
            CANVAS_LIST: [ListItem(ONE, "Same"), ListItem(TWO, "Same"), ListItem(THREE, "Other")],
            PRODUCT_LIST: ["a", "b"],
        },
    )
    assert [(query.kind.section, query.subject, query.subject_id) for query in plan.queries] == [
        ("purchases", "", ""),
        ("segment_users", "vip", VIP),
        ("campaigns", "Welcome", ONE),
        ("purchases", "a", ""),
        ("purchases", "b", ""),
        ("revenue", "b", ""),
        ("segment_users", f"vip ({TWO})", TWO),
        ("campaigns", "Old", TWO),
        ("canvases", "Other", THREE),
        ("canvases", "Same", ONE),
        ("canvases", "Same", TWO),
    ]
    assert selection_counts(plan) == {
        "purchases": (2, 2, 0),
        "revenue": (2, 1, 0),
        "segment_users": (3, 2, 0),
        "campaigns": (3, 2, 0),
        "canvases": (3, 3, 0),
    }


def test_items_beyond_max_queries_are_skipped() -> None:
    """An item whose queries do not fit is skipped whole, by order of entries and names; smaller ones still fit."""
    entries = [{"regex": "b.*"}, {"regex": ".*", "apps": ["all", "ios"]}, {"event": "own"}]
    events = ["a", "b1", "b2", "c", "own"]
    plan = plan_of({"custom_events": entries}, {EVENT_LIST: events}, max_queries=6)
    assert describe_queries(plan) == ["own hour", "b1 hour", "b2 hour", "a hour", "a ios hour", "b1 ios hour"]
    assert selection_counts(plan) == {"custom_events": (5, 5, 3)}
    assert len(plan_of({"custom_events": entries}, {EVENT_LIST: events}, max_queries=1).queries) == 1


def test_current_items_are_kept() -> None:
    """A new item does not displace a current one while that is listed."""
    sections = {"custom_events": [{"regex": ".*"}]}
    before = plan_of(sections, {EVENT_LIST: ["m", "n"]}, max_queries=2)
    after = plan_of(sections, {EVENT_LIST: ["a", "m", "n"]}, before.queries, max_queries=2)
    assert describe_queries(after) == ["m hour", "n hour"]
    assert selection_counts(after) == {"custom_events": (3, 3, 1)}
    removed = plan_of(sections, {EVENT_LIST: ["a", "n"]}, after.queries, max_queries=2)
    assert describe_queries(removed) == ["a hour", "n hour"]
    assert selection_counts(removed) == {"custom_events": (2, 2, 0)}


def test_items_beyond_budget_are_skipped() -> None:
    """A pool's selected items use at most its share minus the cost of its lists, and other pools are unaffected."""
    sections = {"purchases": [{"regex": ".*", "refresh_interval": "30m"}], "custom_events": [{"regex": ".*"}]}
    products, events = [f"p{n:03}" for n in range(60)], [f"e{n:03}" for n in range(60)]
    names = {PRODUCT_LIST: products, EVENT_LIST: events}
    plan = plan_of(sections, names, calls=5)  # lists take 10 of the pool's 100 calls, and each product takes 2
    assert selection_counts(plan) == {"custom_events": (60, 60, 0), "purchases": (60, 60, 15)}
    assert [usage.hourly_calls for usage in plan.pool_usage] == [720, 90]


def test_workspaces_with_equal_key_select_within_one_budget() -> None:
    """Workspaces that share a url and a key select items for the calls of one share together."""
    items = [
        f"  - {{name: {name}, instance: US-01, api_key_env: BRAZE_API_KEY, purchases: [{{regex: .*}}]}}\n"
        for name in ("one", "two")
    ]
    config = load_config(f"workspaces:\n{''.join(items)}", "config.yaml")
    products = ListSnapshot(tuple(ListItem(f"p{n}", f"p{n}") for n in range(20)), calls=2)
    plan = expand_selectors(
        build_plan(config), config.settings, {(name, PRODUCT_LIST): products for name in ("one", "two")}
    )
    # The lists take 2 of the 100 calls each, and each product takes 4.
    assert [(item.workspace, item.skipped_count) for item in plan.selection_results] == [("one", 0), ("two", 16)]


def test_longer_lists_keep_current_items() -> None:
    """Longer lists leave fewer calls for new items, but current items are kept."""
    sections = {"purchases": [{"regex": ".*", "refresh_interval": "30m"}]}
    names = {PRODUCT_LIST: [f"p{n:03}" for n in range(60)]}
    before = plan_of(sections, names, calls=0)
    after = plan_of(sections, names, before.queries, calls=60)
    assert [plan.selection_results[0].skipped_count for plan in (before, after)] == [10, 10]
    assert describe_queries(after) == describe_queries(before)
    assert selection_counts(plan_of(sections, names, calls=60)) == {"purchases": (60, 60, 40)}


def test_items_beyond_history_budget_are_skipped() -> None:
    """The cost of baseline history limits a selector too, and skipped items are counted."""
    entry = {"regex": ".*", "baseline": {"weeks": 52}, "refresh_interval": "1h"}
    plan = plan_of({"custom_events": [entry]}, {EVENT_LIST: [f"e{n:04}" for n in range(500)]})
    (usage,) = plan.pool_usage
    assert usage.is_within_budget
    assert 0 < usage.query_count < 500
    assert usage.startup_calls <= 25_000 < usage.startup_calls / usage.query_count * (usage.query_count + 1)
    assert selection_counts(plan) == {"custom_events": (500, 500, 500 - usage.query_count)}


def test_unlisted_subjects_are_reported() -> None:
    """Each subject is reported as it is written in the config, with suggestions where subjects have names."""
    plan = plan_of(
        {
            "custom_events": [{"event": "Purchase"}, {"event": "purchase"}, {"event": "purchase", "unit": "day"}],
            "purchases": [{}, {"product": "Mug"}],
            "campaigns": [{"campaign": ONE.upper()}, {"campaign": TWO}],
            "segment_users": [{"segment": "vip"}],
        },
        {
            EVENT_LIST: ["purchase", "purchase_2", "unlike"],
            PRODUCT_LIST: ["Cup"],
            CAMPAIGN_LIST: [ListItem(ONE, "Welcome")],
            SEGMENT_LIST: [],
        },
    )
    kinds = {kind.section: kind for kind in KINDS}
    assert plan.configured_subjects == (
        ConfiguredSubject(
            "production", kinds["custom_events"], "Purchase", is_listed=False, suggestions=("purchase", "purchase_2")
        ),
        ConfiguredSubject("production", kinds["custom_events"], "purchase", is_listed=True),
        ConfiguredSubject("production", kinds["purchases"], "Mug", is_listed=False),
        ConfiguredSubject("production", kinds["campaigns"], ONE.upper(), is_listed=True),
        ConfiguredSubject("production", kinds["campaigns"], TWO, is_listed=False),
    )
    assert plan.selection_results == ()


def test_suggestions_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suggestions are computed once per list, for at most twenty subjects."""
    searched_names: list[str] = []

    def find_and_record(names: Sequence[str], _: object) -> dict[str, tuple[str, ...]]:
        searched_names.extend(names)
        return dict.fromkeys(names, ("b",))

    monkeypatch.setattr(selectors, "find_nearest", find_and_record)
    written = build_test_config({"custom_events": [{"event": f"a{number:02}"} for number in range(30)]})
    known = snapshots({EVENT_LIST: ["b"]})
    for _ in range(3):
        plan = expand_selectors(build_plan(written), written.settings, known)
        assert [named.suggestions for named in plan.configured_subjects] == [("b",)] * 20 + [()] * 10
    assert searched_names == [f"a{number:02}" for number in range(20)]


def test_selector_of_untracked_segment_matches_no_item() -> None:
    """A segment without analytics tracking does not count as an item that a selector matches."""
    items = {SEGMENT_LIST: [ListItem(VIP, "VIP"), ListItem(TWO, "QA", is_tracked=False)]}
    (result,) = plan_of({"segment_users": [{"regex": "QA"}]}, items).selection_results
    assert result.mismatches == ('regex "QA" matches none of 1 item in Braze\'s list',)


def test_removed_item_keeps_name_without_query() -> None:
    """A configured campaign that was removed keeps its last name, and a selector does not select it."""
    written = build_test_config({"campaigns": [{"campaign": ONE}, {"campaign": TWO.upper()}, {"regex": ".*"}]})
    known = snapshots({CAMPAIGN_LIST: [ListItem(THREE, "Same")]})
    plan = build_plan(written)
    last_names = dict(zip(map(name_key, plan.queries), ("Same", "Own"), strict=True))
    plan = expand_selectors(plan, written.settings, known, last_names=last_names)
    assert [query.subject for query in plan.queries] == ["Same", "Own", "Same"]
    assert [named.is_listed for named in plan.configured_subjects] == [False, False]


def test_names_differing_by_case_are_distinct() -> None:
    """Event names that differ only in case are distinct."""
    assert describe_queries(plan_of({"custom_events": [{"regex": "(?i)login"}]}, {EVENT_LIST: ["Login", "login"]})) == [
        "Login hour",
        "login hour",
    ]


def test_selected_items_have_entry_alerts() -> None:
    """Each selected query has the alerts of its entry."""
    plan = plan_of({"custom_events": [{"regex": "a.*", "alerts": {"below": 1}}]}, {EVENT_LIST: ["a1", "a2", "b"]})
    assert [query.request_value for query, _ in plan.alerts] == ["a1", "a2"]


NAMES = st.sampled_from(["a", "b", "ab", "B", "c d", "é", " ", ""])
ROWS = st.builds(
    ListItem, st.sampled_from([ONE, TWO, THREE, VIP]), NAMES, st.lists(NAMES, max_size=2).map(tuple), st.booleans()
)
SUBJECTS: Mapping[str, list[dict[str, Any]]] = {
    "custom_events": [
        {"regex": ".*"},
        {"regex": "a.*", "apps": ["all", "ios"]},
        {"event": "a"},
        {"regex": "b", "unit": "day"},
    ],
    "segment_users": [{"regex": ".*"}, {"segment": "vip"}],
    "campaigns": [{"regex": ".*"}, {"tag": "b"}, {"campaign": ONE}],
    "canvases": [{"regex": "a.*", "tag": "b"}, {"canvas": TWO}],
    "purchases": [{"regex": ".*"}, {}, {"product": "b"}],
}
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        section: st.lists(st.sampled_from(entries), min_size=1, unique_by=str) for section, entries in SUBJECTS.items()
    },
).filter(bool)


def _unique(rows: st.SearchStrategy[ListItem]) -> st.SearchStrategy[list[ListItem]]:
    return st.lists(rows, unique_by=lambda row: row.id)


LISTS = st.fixed_dictionaries(
    {},
    optional={
        **{list_endpoint: _unique(ROWS) for list_endpoint in (SEGMENT_LIST, CAMPAIGN_LIST, CANVAS_LIST)},
        **{
            list_endpoint: _unique(NAMES.map(lambda name: ListItem(name, name)))
            for list_endpoint in (EVENT_LIST, PRODUCT_LIST)
        },
    },
)


@given(SECTIONS, LISTS, LISTS, st.integers(8, 20), st.sampled_from([0.001, 0.1]))
def test_any_list_gives_consistent_plan(
    sections: Mapping[str, Any],
    first: Mapping[ListEndpoint, Any],
    second: Mapping[ListEndpoint, Any],
    most: int,
    share: float,
) -> None:
    """For any lists, a plan keeps to its limits, has unique series, and keeps current items while they are listed."""
    settings: dict[str, Any] = {
        "max_queries": most,
        "budget": {"share": share},
        "refresh_interval": {"hour": "30m", "day": "40m"},
    }
    try:
        own = build_plan(build_test_config(sections, **settings))
    except ConfigError:  # the config alone is over its limits
        return
    before = plan_of(sections, first, **settings)
    after = plan_of(sections, second, before.queries, **settings)
    for plan in (before, after):
        assert len(plan.queries) <= most
        assert all(usage.is_within_budget for usage in plan.pool_usage)
        assert len({query.identity for query in plan.queries}) == len(plan.queries)
        labels = [(query.kind.section, query.metric_group, query.labels, query.unit) for query in plan.queries]
        assert len({*labels}) == len(labels)
        assert [query.identity for query in plan.queries[: len(own.queries)]] == [
            query.identity for query in own.queries
        ]
        assert all(item.skipped_count <= item.matched_count <= item.listed_count for item in plan.selection_results)
    free = plan_of(sections, second, **(settings | {"max_queries": 1_000, "budget": {"share": 1}}))
    possible = {query.identity for query in free.queries}
    kept = {query.identity for query in before.queries} & possible
    if all(list_endpoint in second for list_endpoint in first) and share > 0.05:
        assert kept <= {query.identity for query in after.queries}
    assert after == plan_of(sections, second, before.queries, **settings)
    again = plan_of(sections, second, after.queries, **settings)
    assert {query.identity for query in again.queries} == {query.identity for query in after.queries}


@pytest.mark.parametrize("calls", [1, 101])
def test_lists_using_whole_pool_leave_no_budget(calls: int) -> None:
    """When lists use the whole share of a pool, selectors select no products."""
    plan = plan_of({"purchases": [{"regex": ".*"}]}, {PRODUCT_LIST: ["a"]}, calls=calls)
    assert selection_counts(plan) == {"purchases": (1, 1, int(calls > 100))}
