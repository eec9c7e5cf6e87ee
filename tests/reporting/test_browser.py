"""The page of a library of 30 skills, in a real browser."""

import pytest

from skillpack.reporting.gathering import heat_map
from tests.pace import paced

pytestmark = pytest.mark.xdist_group("browser")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1440, "height": 900}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_fits_the_screen(opened, page, size, scheme):
    with opened(page, viewport=size, color_scheme=scheme) as tab:
        tab.click("button[data-all=open]")
        width = tab.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        assert width == size["width"]
        dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(17, 20, 25)") == (scheme == "dark")
        # What is wider scrolls within its own box, which the keyboard reaches.
        boxes = tab.evaluate(
            "[...document.querySelectorAll('.scroll')].map(b => [b.scrollWidth > b.clientWidth, b.tabIndex])"
        )
        assert boxes
        assert all(place == (0 if wider else -1) for wider, place in boxes)


def test_every_text_can_be_read(opened, page):
    """WCAG AA: a contrast of 4.5 for all texts, 3 for large ones, on the colour behind them."""
    for scheme in ("light", "dark"):
        with opened(page, color_scheme=scheme) as tab:
            tab.click("button[data-all=open]")
            assert tab.evaluate(CONTRASTS) == []


CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, .skip")) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) {
      found.add(`${element.tagName}.${element.className} ${contrast.toFixed(2)}`);
    }
  }
  return [...found];
}"""


def test_the_table_is_sorted_with_the_keyboard(opened, page):
    with opened(page) as tab:
        names = "[...document.querySelectorAll('#skills tbody tr')].map(r => r.cells[0].textContent.trim())"
        sizes = "[...document.querySelectorAll('#skills tbody tr')].map(r => Number(r.cells[2].dataset.v))"
        assert tab.evaluate(names) == sorted(tab.evaluate(names))
        tab.focus("#skills th:nth-child(2) button")
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        assert tab.evaluate(sizes) == sorted(tab.evaluate(sizes))
        assert tab.get_attribute("#skills th:nth-child(3)", "aria-sort") == "ascending"
        assert tab.locator("#skills [aria-sort]").count() == 1
        tab.keyboard.press("Space")
        assert tab.evaluate(sizes) == sorted(tab.evaluate(sizes), reverse=True)
        assert tab.get_attribute("#skills th:nth-child(3)", "aria-sort") == "descending"
        assert tab.evaluate("document.activeElement.textContent") == "Size"


def test_the_keyboard_reaches_everything(opened, page):
    with opened(page) as tab:
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "skip"
        assert tab.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
        tab.keyboard.press("Enter")
        assert tab.url.endswith("#main")
        reached, seen = [], 0
        for _ in range(70):
            tab.keyboard.press("Tab")
            found = tab.evaluate(
                "(e => [e.tagName, e.textContent.trim().slice(0, 20), getComputedStyle(e).outlineStyle])"
                "(document.activeElement)"
            )
            seen += found[2] != "none"
            reached.append(tuple(found[:2]))
        assert seen == 70
        kinds = [kind for kind, _ in reached]
        assert {"BUTTON", "A", "INPUT", "SUMMARY"} <= set(kinds)
        # In the order of the page: the links of the list before what is folded.
        assert kinds.index("INPUT") < kinds.index("SUMMARY")


def test_a_skill_is_opened_with_the_keyboard(opened, page):
    with opened(page) as tab:
        skill = tab.locator("details.skill").nth(4)
        skill.locator("> summary").focus()
        assert skill.get_attribute("open") is None
        tab.keyboard.press("Enter")
        assert skill.get_attribute("open") is not None
        assert skill.locator("table.heat").count() == 2
        # A link of the list opens its skill too, and goes there.
        tab.locator("#skills tbody a").nth(7).focus()
        tab.keyboard.press("Enter")
        tab.wait_for_function("document.activeElement.tagName === 'SUMMARY'")
        target = tab.locator("details.skill").nth(7)
        assert target.get_attribute("open") is not None
        assert target.locator("> summary").evaluate("e => e === document.activeElement")


def test_the_theme_is_chosen_and_remembered(opened, page):
    with opened(page, color_scheme="light") as tab:
        background = "getComputedStyle(document.body).backgroundColor"
        light = tab.evaluate(background)
        tab.focus("button[data-theme=dark]")
        tab.keyboard.press("Enter")
        assert tab.evaluate(background) != light
        assert tab.get_attribute("button[data-theme=dark]", "aria-pressed") == "true"
        tab.reload()
        assert tab.evaluate(background) != light
        tab.click("button[data-theme=auto]")
        assert tab.evaluate(background) == light


def test_skills_are_found_by_typing(opened, page):
    with opened(page) as tab:
        tab.focus("#filter")
        tab.keyboard.type("code-")
        assert tab.locator("#skills tbody tr:visible").count() == 5
        assert tab.text_content("#shown") == "5 of 30"
        tab.keyboard.type("nothing like this")
        assert tab.locator("#skills tbody tr:visible").count() == 0
        tab.fill("#filter", "")
        assert tab.locator("#skills tbody tr:visible").count() == 30


def test_it_works_without_scripts(opened, page):
    with opened(page, java_script_enabled=False) as tab:
        assert tab.locator("#skills tbody tr").count() == 30
        assert tab.locator("#filter").is_hidden()
        tab.locator("details.skill > summary").nth(1).click()
        assert tab.locator("details.skill").nth(1).locator("table.heat").first.is_visible()


def test_it_opens_quickly(opened, page):
    assert page.stat().st_size < 2_000_000
    with opened(page) as tab:

        def load():
            tab.reload()
            return tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") / 1000

        assert paced(load) < 1


def test_on_paper_everything_is_unfolded(opened, page):
    with opened(page, color_scheme="dark") as tab:
        tab.emulate_media(media="print")
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.locator("details.skill[open]").count() == 30
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert tab.locator("nav").is_hidden()
        tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert tab.locator("details.skill[open]").count() == 1
        assert tab.pdf().startswith(b"%PDF")


def test_a_hostile_library_does_nothing(opened, hostile):
    with opened(hostile) as tab:
        tab.click("button[data-all=open]")
        assert tab.evaluate("window.stolen") is None
        assert tab.locator("img, iframe, object, embed, form").count() == 0
        assert tab.locator("script").count() == 1


@pytest.mark.parametrize("content", ["<b onclick='stolen=1'>", "<img src='https://example.org/a.png'>"])
def test_what_got_in_all_the_same_would_be_blocked(opened, page, content):
    with pytest.raises(AssertionError, match="Content Security Policy"):
        inject(opened, page, content)


def inject(opened, page, content):
    with opened(page) as tab:
        tab.evaluate("content => document.body.insertAdjacentHTML('beforeend', content)", content)
        tab.wait_for_timeout(200)
        tab.evaluate("document.querySelector('b[onclick]')?.click()")
        assert tab.evaluate("window.stolen") is None, "a script was run"


def test_an_empty_library(opened, empty):
    with opened(empty, viewport=PHONE) as tab:
        assert tab.locator(".empty").count() == 6
        assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_heat_maps_add_up():
    layers = {"layers.0.a.weight": 1.0, "layers.10.a.weight": 2.0, "layers.2.b.bias": 1.0}
    found = heat_map({**layers, "head": 4.0})
    assert found.layers == (0, 2, 10)
    assert found.rows == (("a", (0.125, None, 0.25)), ("b", (None, 0.125, None)))
    assert found.rest == (("head", 0.5),)
    assert (found.total, found.largest) == (8.0, 0.25)
    assert heat_map({"a": 0.0}).rest == (("a", 0.0),)
