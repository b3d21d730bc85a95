"""The report's page in a headless Chromium: what a reader can do with it, and that it asks the network for nothing."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from univar_jax.report import figures, maps, page
from univar_jax.statistics import dendrogram

EVIL = "</script><img src=x onerror=document.title='got'>"
# Of one redraw of 50,000 points, the median of nine: about 20 on two cores without a GPU; they may be busy.
REDRAW_MS = 100


def metrics(names):
    """The least that the page is made of: no scores, distances as on a line."""
    s = len(names)
    place = np.arange(s) ** 1.5
    d_ss = np.abs(place[:, None] - place[None]) / place.max()
    tree = dendrogram.linkage(d_ss)
    keys = ("centroid", "centroid_shared", "energy", "floor", "p", "q", "centroid_floor", "centroid_p", "centroid_q")
    apart = {key: d_ss.tolist() for key in keys} | {"names": names, "linkage": tree.tolist()}
    apart |= {key: np.full((s, s), 9).tolist() for key in ("rows", "shared")}
    apart |= {"support": [1.0] * len(tree), "left_out": [], "mantel": {"language": None, "reference": None}}
    quote = {"distance": 0.5, "question": "why?", "dataset": "d", "value": "", "answer_a": EVIL, "answer_b": "b"}
    empty = {"unit": "question", "shared": 2, "distance": 0.5, "by_value": {}, "by_dataset": {}}
    asked = [
        {"a": a, "b": b, "most": [quote], "least": [quote]} | empty for i, a in enumerate(names) for b in names[i + 1 :]
    ]
    part = {"knn": None, "groups": 0, "sources": s, "n_fit": 0, "n_scored": 0, "leakage": {"rows": 0, "questions": 0}}
    part |= {"by_count": None, "length_matched": None, "chance": None, "few_clusters": False, "tfidf": None, "n": 0}
    part |= {"by_dataset": {}, "control": None, "labels": {}, "across": [], "by_value": {}, "value_to_control": None}
    part |= {"encoder": "e", "weights": None, "step": None, "config_hash": None, "version": None, "qas_per_view": None}
    counts = ("resamples", "permutations", "mantel_permutations", "support_resamples", "halves", "rows_a_source")
    settings = dict.fromkeys((*counts, "length_bins", "tfidf_features"), 1) | {"reference": ""}
    told = {"paired": [], "notes": [], "lang": ["eng"], "rows": 9, "control_rows": 0, "seed": 0, "inputs": "x"}
    told |= {"permutation_unit": None, "source_names": names, "distances": apart, "questions": asked}
    told |= {"settings": settings, "map": {"umap": None, "pca": None, "points": 0, "neighbours": 0}}
    return part | {"encoders": [part]} | told


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pages of so many points of six sources, and their files."""
    tmp = tmp_path_factory.mktemp("page")

    def make(n):
        draws = np.random.default_rng(0)
        code_n = np.arange(n) % 6
        models, langs = np.array(["m1", "m2", EVIL])[code_n % 3], np.array(["eng", "zho"])[code_n // 3]
        columns = {"model": models, "lang": langs, "source": np.char.add(np.char.add(models, "$"), langs)}
        columns["text"] = np.array([f"Q: number {i}? A: {EVIL}" for i in range(n)])
        columns = {name: column.astype(object) for name, column in columns.items()}
        xy_n2 = draws.normal(size=(n, 2)) + 4 * np.eye(6)[code_n] @ draws.normal(size=(6, 2))
        drawn = maps.Maps(np.arange(n), xy_n2, xy_n2[:, ::-1] * [1, 0.5], [0.6, 0.3], 15)
        files = page.report(drawn, columns, metrics(sorted(set(columns["source"]))))
        file = tmp / f"{n}.html"
        file.write_bytes(files["report.html"])
        return file, files

    return make


@dataclasses.dataclass
class Opened:
    """A page that is open, and what it said and asked for."""

    tab: object
    said: list
    asked: list


@pytest.fixture
def opened(browser, made):
    tabs = []

    def open_page(n, width=1100, scheme="light", **more):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
        tabs.append(tab)
        out = Opened(tab, [], [])
        tab.on("console", lambda message: out.said.append(message.text))
        tab.on("pageerror", lambda error: out.said.append(str(error)))
        tab.on("request", lambda request: out.asked.append(request.url))
        file, files = made(n)
        tab.goto(file.as_uri())
        tab.wait_for_timeout(300)
        return out, files

    yield open_page
    for tab in tabs:
        tab.close()


def place(tab, i):
    """Where a point of the map lies in the window."""
    return tab.evaluate(
        "i => { const c = document.getElementById('map-canvas'); c.scrollIntoView();"
        "const b = c.getBoundingClientRect(); const [x, y] = valueMap.place(i); "
        "return [b.left + x * b.width / c.width, b.top + y * b.height / c.height]; }",
        i,
    )


def point(tab, i):
    """Moves the pointer to a point of the map."""
    tab.mouse.move(*place(tab, i))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_map_is_pointed_at_isolated_and_searched(opened, scheme):
    page_, _ = opened(600, scheme=scheme)
    tab = page_.tab
    assert not tab.locator("#map-still").is_visible() and tab.locator("#map-canvas").is_visible()
    point(tab, 5)
    assert EVIL + "$zho" in tab.locator("#map-tip").text_content() and "Q: number" in tab.inner_text("#map-tip")
    key = tab.locator("#map-legend button").nth(2)
    key.click()
    assert key.get_attribute("aria-pressed") == "true" and "100 points of" in tab.inner_text("#map-said")
    tab.keyboard.press("Escape")
    assert key.get_attribute("aria-pressed") == "false" and tab.inner_text("#map-said") == ""
    tab.fill("#map-search", "NUMBER 59")
    assert tab.inner_text("#map-said") == "11 points" and tab.locator("#map-found li").count() == 8
    tab.check("input[value=pca]")
    tab.focus("#map-canvas")
    tab.keyboard.press("+")
    assert tab.evaluate("valueMap.state.view.zoom") > 1
    assert page_.said == [] and len(page_.asked) == 1 and page_.asked[0].startswith("file:")


def test_heat_map_is_sorted_and_read_by_keys_and_its_questions_open(opened):
    page_, _ = opened(60)
    tab = page_.tab
    order = lambda: tab.locator("#heat-table tbody th").all_inner_texts()  # noqa: E731
    first = order()
    assert tab.locator("#heat-tree path").count() == 5
    tab.select_option("#heat-order", "near")
    tab.select_option("#heat-to", "m2$eng")
    assert order() != first and "m2$eng" in order()[0] and not tab.locator("#heat-tree").is_visible()
    tab.focus("#heat-table td[tabindex='0']")
    tab.keyboard.press("ArrowRight")
    said = tab.inner_text("#heat-said")
    assert said.startswith("m2$eng – ") and " p " in said and " q " in said
    tab.check("input[value=energy]")
    tab.focus("#heat-table td[tabindex='0']")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    assert tab.input_value("#pair-a") == "m2$eng" and tab.locator("details.pair:visible").count() == 1
    assert tab.locator("details.pair:visible").get_by_text(EVIL).count() > 0
    assert page_.said == []


def test_untrusted_answers_stay_text(opened):
    page_, files = opened(60)
    assert page_.tab.title() != "got" and page_.tab.locator("img[src=x]").count() == 0
    assert EVIL.encode() not in files["report.html"] and page_.said == []


def test_tables_and_metrics_can_be_taken_away(opened):
    page_, files = opened(60)

    def saved(button):
        with page_.tab.expect_download() as waited:
            page_.tab.click(button)
        return pathlib.Path(waited.value.path()).read_text()

    assert json.loads(saved("#save-metrics")) == json.loads(files["metrics.json"])
    lines, ours = (text.splitlines() for text in (saved("#save-distances"), files["distances.csv"].decode()))
    assert lines[0] == ours[0] == ",".join(["a", "b", *page.PAIR_COLUMNS]) and len(lines) == len(ours) == 16
    assert "scores.csv" in page_.tab.inner_text("#save-tables")


def test_a_phone_has_nothing_to_scroll_sideways(opened):
    page_, _ = opened(60, width=360)
    assert page_.tab.evaluate("document.documentElement.scrollWidth") == 360 and page_.said == []


def test_a_finger_reads_a_point_and_isolates_a_source(opened):
    page_, _ = opened(60, width=360, has_touch=True, is_mobile=True)
    tab = page_.tab
    tab.touchscreen.tap(*place(tab, 5))
    assert "Q: number 5?" in tab.inner_text("#map-tip")
    tab.locator("#map-legend button").nth(2).tap()
    assert "10 points of" in tab.inner_text("#map-said") and page_.said == []


def test_without_a_script_the_pictures_are_there(opened):
    page_, _ = opened(60, java_script_enabled=False)
    assert page_.tab.locator("img:visible").count() == 3 and not page_.tab.locator("#map").is_visible()
    assert page_.tab.locator("details.pair:visible").count() == 15


def test_fifty_thousand_points_are_redrawn_within_a_blink(opened):
    page_, files = opened(50_000)
    times = page_.tab.evaluate(
        "() => Array.from({length: 9}, () => { const t = performance.now(); valueMap.draw();"
        "return performance.now() - t; })"
    )
    print("redraw", np.round(times, 1))
    assert np.median(times) < REDRAW_MS
    assert "5,000 of the 50,000 points, by lot" in page_.tab.inner_text("#map")
    assert len(files["report.html"]) < 5e6 and page_.said == []


def test_equal_input_gives_an_equal_page(made):
    assert made(60)[1] == made(60)[1]
    assert all(len(letter) == 1 for letter in figures.MARKERS)
