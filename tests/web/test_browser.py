"""Test the status page at `/` in Chromium: content, keyboard use, layout, and names shown as plain text.

Needs `chromium` and `chromedriver` (Debian: chromium, chromium-driver). Skipped without them, except in CI, where their
absence is a failure.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import response_faults
from browser import SIZES, Browser, Keys, chromium
from pictures import scene
from recorded_counts import RecordedCounts
from support import KEY, Program, running_braze, wait_until, workspace_yaml, write_file
from test_names import NAMES

pytestmark = pytest.mark.no_cover

TITLE = "#rows .title"
# Returns the WCAG contrast of every text with its background, the lowest first.
CONTRAST_SCRIPT = """
const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const color = parse(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
};
const found = [];
for (const e of document.querySelectorAll("body *")) {
  if (!e.checkVisibility() || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
  const [one, other] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
  found.push([(one + 0.05) / (other + 0.05), e.className || e.tagName, e.textContent.slice(0, 40)]);
}
return found.sort((a, b) => a[0] - b[0]);
"""

# Returns how many requests the page sends when it is due to update.
UPDATE = """
const requests = () => performance.getEntriesByType("resource").length;
const before = requests();
await update();
return requests() - before;
"""
# Returns the milliseconds from an update that fails after 20 seconds to the next update.
DELAY_SCRIPT = """
let delay;
let passed = 0;
performance.now = () => passed;
window.fetch = async () => { passed = 20_000; throw new Error("signal timed out"); };
window.setTimeout = (_, milliseconds) => { delay = milliseconds; };
await update();
return delay;
"""
# `OVERFLOW_SCRIPT` returns the classes of elements that are wider than their card or the screen. `SMALL_TARGETS_SCRIPT`
# returns the texts of targets too low to be hit.
OVERFLOW_SCRIPT = """
const right = (e) => e.getBoundingClientRect().right;
return [...document.querySelectorAll("main :not(.ellipsis *)")]
  .filter((e) => right(e) > Math.min(innerWidth, right(e.closest("article, details") ?? e)) + 1)
  .map((e) => e.className || e.tagName);
"""
SMALL_TARGETS_SCRIPT = """
return [...document.querySelectorAll("main summary, main select, main input")]
  .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 24).map((e) => e.textContent);
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Chromium once for all tests of this module."""
    with chromium() as browser_:
        yield browser_


@pytest.fixture(scope="module")
def failing_demo(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:  # noqa: ARG001 - it may skip
    """Run the exporter with the demo and many kinds of failures."""
    with scene(tmp_path_factory.mktemp("scene")) as program:
        yield program


@pytest.fixture
def page(browser: Browser, failing_demo: Program) -> Iterator[Browser]:
    """Open the page of the failing demo in the default view, and assert in the end that the console has no errors."""
    browser.inspect()
    open_page(browser, failing_demo)
    yield browser
    assert browser.console_errors() == []


def open_page(browser: Browser, program: Program) -> None:
    """Open the page and wait until it shows the status."""
    browser.open(f"http://127.0.0.1:{program.port}/")
    browser.wait("statusData !== undefined")


def search(browser: Browser, text: str) -> None:
    """Replace the text of the filter."""
    browser.run("byId('filter').focus(); byId('filter').select()")
    browser.press(*text)


def select_order(browser: Browser, value: str) -> None:
    """Select an order of the queries."""
    browser.run("byId('sort').value = arguments[0]; byId('sort').dispatchEvent(new Event('input'))", value)


def queries(program: Program) -> list[dict[str, str]]:
    """Return the query data of the exporter's status response."""
    result: list[dict[str, str]] = json.loads(program.get("/", {"Accept": "application/json"}).text)["queries"]
    return result


def test_page_shows_every_workspace_and_query(page: Browser, failing_demo: Program) -> None:
    """The page has each workspace with its health in words and one row for each query, the most urgent first."""
    assert page.texts(".workspace h2") == ["production", "europe", "staging"]
    assert "3 of 34 queries failed." in page.text(".workspace:nth-child(1)")
    paused = r"Requests in the default pool are paused until (\w{3} )?[\d:]+ \(only budget\.reserve is left\)\."
    assert re.search(paused, page.text(".workspace:nth-child(2)"))
    assert "401 Unauthorized: API key rejected" in page.text(".workspace:nth-child(3)")
    assert "reserve 50,000" in page.text(".workspace:nth-child(2)")
    assert page.run("return document.querySelector('.workspace:nth-child(2) meter').low") == 50_000
    assert len(page.texts(TITLE)) == len(queries(failing_demo)) == 38
    assert page.text("#count") == "38 of 38 queries"
    shapes = page.run("return [...document.querySelectorAll('#rows .level')].map((e) => e.classList[1])")
    assert shapes == sorted(shapes, key=["error", "warning", "pending", "ok"].index)
    assert [text for text in page.texts("#rows .points") if text] == ["no response yet", "no data in the response"]


def test_chart_starts_at_zero(page: Browser) -> None:
    """A chart has 24 bars from zero, the newest two of them hollow, and a text for screen readers."""
    search(page, "product_viewed")
    label = page.run("return document.querySelector('#rows .chart').ariaLabel")
    assert re.fullmatch(r"24 buckets from [\d,]+ to [\d,]+", label)
    drawn = "return document.querySelector('#rows .chart .{}').getAttribute('d')"
    assert [page.run(drawn.format(name)).count("z") for name in ("settled", "unsettled")] == [22, 2]


def test_typing_filters_rows(page: Browser) -> None:
    """The filter matches all words in any order and case, including the state."""
    search(page, "IOS purchase")
    assert set(page.texts(TITLE)) == {"purchase_completed"}
    assert page.text("#count") == "3 of 38 queries"
    search(page, "deferred")
    assert page.texts(TITLE) == ["app_opened", "purchase_completed", "wishlist"]
    search(page, "no such thing")
    assert (page.texts(TITLE), page.text("#count")) == ([], "0 of 38 queries")


def test_filter_and_order_survive_reload(page: Browser) -> None:
    """The URL keeps the filter and the order across a reload."""
    select_order(page, "name")
    search(page, "europe")
    page.driver.refresh()
    page.wait("statusData !== undefined")
    assert page.texts(TITLE) == ["app_opened", "purchase_completed", "wishlist"]
    assert page.run("return [byId('filter').value, byId('sort').value]") == ["europe", "name"]


def test_shared_url_changes_open_page(page: Browser) -> None:
    """Another filter in the URL of the open page is applied, and the back button restores the previous one."""
    page.run("location.hash = 'q=europe&sort=name'")
    page.wait("byId('sort').value === 'name'")
    assert page.texts(TITLE) == ["app_opened", "purchase_completed", "wishlist"]
    page.driver.back()
    page.wait("byId('filter').value === ''")
    assert page.text("#count") == "38 of 38 queries"


def test_list_sorts_rows(page: Browser) -> None:
    """The queries are sorted by the selected order. Those without a value are always last."""

    def values(field: str) -> list[float | None]:
        keys = page.run("return [...byId('rows').children].map((row) => [...rows].find((item) => item[1] === row)[0])")
        by_key = {query["metrics"][0]: query[field] for query in page.run("return statusData.queries")}
        return [by_key[key] for key in keys]

    orders = page.run("return [...byId('sort').options].map((option) => option.value)")
    for order in orders[2:]:
        select_order(page, order)
        shown = values(order.removeprefix("-"))
        known = [value for value in shown if value is not None]
        assert len(known) > 1
        assert shown == [*sorted(known, reverse=order.startswith("-")), *[None] * (len(shown) - len(known))]
    select_order(page, "name")
    assert page.texts(TITLE) == sorted(page.texts(TITLE), key=str.casefold)


def test_keys_open_and_close_query(page: Browser, failing_demo: Program) -> None:
    """Tab moves the focus to a query, and Enter opens and closes its details."""
    search(page, "added_to_cart production")
    page.press(Keys.TAB, Keys.TAB, Keys.ENTER)
    page.wait("document.querySelector('#rows code') !== null")
    is_open = "return document.activeElement.parentElement.open"
    assert page.run(is_open) is True
    assert page.text("#rows .last-error") == "Last error: server_error: 503 Service Unavailable: Service Unavailable"
    (query, *_) = [item for item in queries(failing_demo) if item["name"] == "added_to_cart"]
    assert len(page.texts("#rows tr")) == 24
    assert page.texts("#rows td:last-child")[:3] == ["may still change", "may still change", "settled"]
    assert page.texts("#rows code")[0] == query["metrics"][0]
    assert query["metrics"][0].endswith('{workspace="production", event="added_to_cart"}')
    page.press(Keys.ENTER)
    assert page.run(is_open) is False


def test_page_updates_itself(page: Browser, failing_demo: Program) -> None:
    """The page updates without a reload and keeps focus, filter and open rows; a paused page sends no requests.

    The elements of what has not changed stay, so that text in them stays selected.
    """
    search(page, "app_opened deferred")
    page.press(Keys.TAB, Keys.TAB, Keys.ENTER)
    page.wait("document.querySelector('#rows code') !== null")
    page.run("window.mark = document.querySelector('#rows code')")
    before = page.run("return statusData.scraped_at")
    failing_demo.scrape()
    page.wait(f"statusData.scraped_at > {before}")
    assert page.run(UPDATE) == 1
    select_order(page, "name")
    assert page.run("return [window.mark.isConnected, document.activeElement.parentElement.open]") == [True, True]
    page.click("#live")
    assert page.run(UPDATE) == 0
    before = page.run("return statusData.now")
    page.click("#live")
    page.wait(f"statusData.now > {before}")


def test_hidden_tab_sends_no_requests(page: Browser) -> None:
    """A hidden page sends no requests, and a page that becomes visible updates at once."""
    page.run("Object.defineProperty(document, 'hidden', {get: () => window.isHidden, configurable: true})")
    page.run("window.isHidden = true; document.dispatchEvent(new Event('visibilitychange'))")
    assert page.run(UPDATE) == 0
    before = page.run("return statusData.now")
    page.run("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait(f"statusData.now > {before}", seconds=3)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_page_is_readable_at_every_size(page: Browser, size: str, *, dark: bool) -> None:
    """Nothing is wider than the screen, texts have the contrast of WCAG AA, and targets are large enough to hit."""
    page.inspect(size, dark=dark)
    for level in ("error", "ok"):
        page.run(f"document.querySelector('#rows > :has(.{level}):has(.chart) summary').click()")
    width, _ = SIZES[size]
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(OVERFLOW_SCRIPT) == []
    low = [item for item in page.run(CONTRAST_SCRIPT) if item[0] < 4.5]
    assert low == []
    assert page.run(SMALL_TARGETS_SCRIPT) == []
    background = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == dark


def test_small_screen_labels_numbers(page: Browser) -> None:
    """On a small screen, each number has a label, and the header is hidden."""
    page.inspect("phone")
    assert page.run("return document.querySelector('.head').checkVisibility()") is False
    assert page.texts("#rows > :first-child .label") == ["Latest", "Settled", "Baseline", "Age", "Next fetch"]
    assert page.run("return document.querySelector('#rows .label').getBoundingClientRect().height") > 10


def test_names_are_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    """Names with HTML, quotes, line feeds, bidirectional marks or 10,000 letters are shown as text and run no code."""
    events = "\n".join(json.dumps({"event": name}, ensure_ascii=False) for name in NAMES.values())
    with ExitStack() as stack:
        braze, server = stack.enter_context(running_braze(RecordedCounts(events=list(NAMES.values()))))
        braze.inject(response_faults.status(400, NAMES["html"]), event=NAMES["html"])
        text = workspace_yaml(server.url, events, name=json.dumps(NAMES["html"]))
        config = write_file(tmp_path / "config.yaml", text)
        program = stack.enter_context(Program.start([f"--config.file={config}"]))
        program.scrape()
        browser.inspect()
        open_page(browser, program)
        browser.run("for (const summary of document.querySelectorAll('#rows summary')) summary.click()")
        browser.wait("document.querySelectorAll('#rows .full-name').length === statusData.queries.length")
        contents = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        whole = browser.run(contents, "#rows .full-name")
        errors = browser.run(contents, "#rows .last-error")
        elements = browser.run("return document.querySelectorAll('main script, main img').length")
        overflows = []
        for size in SIZES:
            browser.inspect(size)
            overflows += browser.run(OVERFLOW_SCRIPT)
        console_errors = browser.console_errors()
    assert set(whole) == set(NAMES.values())
    assert NAMES["html"] in errors[0]
    assert (elements, overflows, console_errors) == (0, [], [])


def test_content_security_policy_holds(page: Browser) -> None:
    """The browser blocks code and elements created from text, as the page's policy demands."""
    for attack in (
        "document.body.innerHTML = '<img src=x onerror=window.broken=1>'",
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.broken=1'}))",
        "document.body.setAttribute('onclick', 'window.broken=1'); document.body.click()",
        "setTimeout('window.broken=1')",
    ):
        page.run(f"try {{ {attack} }} catch (error) {{ window.caught = (window.caught ?? 0) + 1 }}")
    assert page.run("await new Promise((done) => setTimeout(done, 50)); return window.broken ?? null") is None
    assert page.run("return window.caught") >= 2
    assert page.console_errors() != []


def test_stopped_exporter_is_shown(browser: Browser, tmp_path: Path) -> None:
    """The page shows that the exporter does not respond, and updates again once it is back."""
    with running_braze(RecordedCounts(events=["purchase"])) as (_, server):
        config = write_file(tmp_path / "config.yaml", workspace_yaml(server.url, "{event: purchase}"))
        with Program.start([f"--config.file={config}"]) as program:
            browser.inspect()
            open_page(browser, program)
            assert browser.text("#errors").startswith("No scrape yet.")
            program.scrape()
            browser.wait("!document.querySelector('#errors').textContent")
            assert browser.text("#rows .level") == "up"
            assert browser.text("#count") == "1 of 1 query"
        browser.wait("document.querySelector('#errors').textContent.startsWith('No response from the exporter')")
        with Program.start([f"--config.file={config}"], port=program.port) as again:
            again.scrape()
            browser.wait("!document.querySelector('#errors').textContent")


def test_update_follows_timeout_within_minute(page: Browser) -> None:
    """After a response that never came, the page requests the status again a minute later."""
    assert page.run(DELAY_SCRIPT) == 60_000


def test_page_with_2000_queries_is_usable(browser: Browser, tmp_path: Path) -> None:
    """A page with 2,000 queries is shown, filtered, sorted and updated without a noticeable delay.

    The bounds are generous, so that they hold on a busy machine.
    """
    names = [f"event_{number:04}" for number in range(2_000)]
    events = "\n".join(f"{{event: {name}}}" for name in names)
    with running_braze(RecordedCounts(events=names)) as (_, server):
        config = write_file(
            tmp_path / "config.yaml", workspace_yaml(server.url, events, extra_yaml="budget: {share: 0.5}\n")
        )
        with Program.start([f"--config.file={config}"]) as program:
            wait_until(lambda: program.scrape(60).value("braze_queries", state="up") == 2_000, "all queries are up")
            browser.inspect()
            open_page(browser, program)
            measured = browser.run(MEASURE_SCRIPT)
            assert browser.text("#count") == "2,000 of 2,000 queries, the first 200 are shown"
            search(browser, "event_19")
            assert browser.text("#count") == "100 of 2,000 queries"
            assert len(browser.texts(TITLE)) == 100
    print("\n2,000 queries, milliseconds:", {name: round(value) for name, value in measured.items()})
    assert KEY not in str(measured)
    assert measured["interactive"] < 10_000
    assert max(measured[name] for name in ("filter", "sort", "show")) < 2_000


# Measures the time from navigation to the end of the page's script, and of each action up to its layout.
MEASURE_SCRIPT = """
const measure = (action) => {
  const startedAt = performance.now();
  action();
  document.body.offsetHeight;
  return performance.now() - startedAt;
};
const [entry] = performance.getEntriesByType("navigation");
const result = { response: entry.responseEnd, interactive: entry.domInteractive };
result.loaded = entry.domContentLoadedEventEnd;
result.show = measure(() => showStatus(structuredClone(statusData)));
byId("filter").value = "event_1";
result.filter = measure(changeView);
[byId("filter").value, byId("sort").value] = ["", "-settled"];
result.sort = measure(changeView);
return result;
"""
