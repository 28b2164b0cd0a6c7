"""The notebooks' site as people meet it: in a browser, at a desk's width and a phone's, in light and dark, without a network.

Needs `pip install -e ".[site,browser]"` and a Chromium, such as Debian's; skips where one is missing.
"""

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("myst_nb", reason='the site takes pip install -e ".[site]"')
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SOURCES = sorted(path.stem for pattern in ("*.ipynb", "*.md", "*.rst") for path in FOLDER.glob(pattern))
SLIDERS = [name for name in NOTEBOOKS if 'type=\\"range\\"' in (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")]
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"  # Playwright adds what else it takes
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

# Boxes that leave the screen on the right, and can't be scrolled to.
LOST = """() => [...document.querySelectorAll('.bd-main *')].filter(element => {
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height || box.right <= innerWidth + 1) return false;
    if (element.closest('.bd-sidebar-secondary, mjx-assistive-mml')) return false;
    const holds = up => /auto|scroll/.test(getComputedStyle(up).overflowX) && up.getBoundingClientRect().right <= innerWidth + 1;
    let up = element;
    while (up && !holds(up)) up = up.parentElement;
    return !up;
}).map(element => element.outerHTML.slice(0, 100))"""

# Text whose contrast with what lies behind it is below 4.5, or 3 where it is large (WCAG 2.2, 1.4.3).
FAINT = """() => {
    const parse = colour => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const over = ([r, g, b, a = 1], back) => [r, g, b].map((value, k) => value * a + back[k] * (1 - a));
    const light = colour => colour.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const behind = element => {
        if (!element) return [255, 255, 255];
        const colour = parse(getComputedStyle(element).backgroundColor);
        return colour.length < 4 || colour[3] ? over(colour, behind(element.parentElement)) : behind(element.parentElement);
    };
    const faint = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement, style = getComputedStyle(element);
        if (!texts.currentNode.data.trim() || !element.checkVisibility({visibilityProperty: true, opacityProperty: true})
            || element.closest('svg, script, dialog, mjx-container, .visually-hidden')) continue;
        const back = behind(element), [one, other] = [light(over(parse(style.color), back)), light(back)];
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), size = parseFloat(style.fontSize);
        const large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
        if (ratio < (large ? 3 : 4.5))
            faint.push(`${ratio.toFixed(2)}, ${style.color} on ${back}: ${texts.currentNode.data.trim().slice(0, 40)}`);
    }
    return faint;
}"""

FACTS = """() => {
    const list = (query, take) => [...document.querySelectorAll(query)].map(take);
    const seen = element => element.checkVisibility({visibilityProperty: true});
    return {
        scrolls: document.scrollingElement.scrollWidth,
        images: list('img', image => ({
            alt: image.alt, right: image.getBoundingClientRect().right, name: image.src.split('/').pop(),
            stretched: image.width * image.naturalHeight / image.height / image.naturalWidth,
        })),
        searches: list('button[aria-label="Search"], .bd-search input', seen).filter(Boolean).length,
        links: list('a[href]', link => link.href),
        ids: list('[id]', element => element.id),
        raw: list('.math', element => element.querySelector('mjx-container > svg') ? '' : element.textContent).filter(Boolean),
        unknown: list('[data-mjx-error], mjx-merror', element => element.outerHTML),
        ways: list('.prev-next-area a', link => link.href),
        codes: list('div:not(.output) > .highlight > pre', code => !!code.parentElement.querySelector('button.copybtn')),
    };
}"""

UNFOLD = "() => document.querySelectorAll('details').forEach(folded => folded.open = true)"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built by the command that the index documents."""
    documented = (FOLDER / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^pip install .* && sphinx-build (.*) site$", documented, re.MULTILINE)
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "sphinx", *command.split(), folder], cwd=ROOT, check=True, timeout=600)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason='a browser takes pip install -e ".[browser]"')
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())


@pytest.fixture
def visit(site, browser):
    """Opens a page from its file, and keeps what it says and asks for in `.noise`."""
    contexts = []

    def open_page(name: str, screen: dict = DESK, **options):
        contexts.append(browser.new_context(viewport=screen, has_touch=screen is PHONE, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)
        page.noise = []
        page.on("console", lambda said: page.noise.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.noise.append(str(error)))
        page.on("requestfailed", lambda request: page.noise.append(f"failed: {request.url}"))
        page.on("request", lambda asked: None if asked.url.startswith((site.as_uri(), "data:")) else page.noise.append(asked.url))
        page.goto((site / f"{name}.html").as_uri())
        page.evaluate("() => window.MathJax && MathJax.startup.promise")
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_every_source_is_a_page(site):
    assert sorted(path.stem for path in site.glob("*.html")) == sorted([*SOURCES, "index", "search"])


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", [*SOURCES, "index", "search"])
def test_a_page_is_sound(name, screen, visit, site):
    page = visit(name, screen)
    facts = page.evaluate(FACTS)
    assert facts["scrolls"] <= screen["width"], "the page scrolls sideways"
    assert not page.evaluate(LOST), "something leaves the screen"
    for image in facts["images"]:
        assert image["alt"].strip() and image["name"] not in image["alt"], "an image does not say what it shows"
        assert image["right"] <= screen["width"] and image["stretched"] == pytest.approx(1, abs=0.02)
    assert facts["searches"] == 1, "there is one search box, no more"
    assert not facts["raw"] and not facts["unknown"], "mathematics that is not typeset"
    assert all(facts["codes"]), "code without a button that copies it"
    if name in SOURCES:
        assert len(facts["ways"]) == (1 if name in ("README", "api") else 2), "previous and next"
    for link in facts["links"]:
        path, _, anchor = unquote(link).partition("#")
        assert path.startswith((site.as_uri(), "https://")), link
        if path.startswith(site.as_uri()) and (target := Path(path.removeprefix("file://"))) and target.suffix == ".html":
            assert target.is_file() and (not anchor or anchor in anchors(target)), f"a link to nowhere: {link}"
    if name in NOTEBOOKS:
        stays_folded_until_asked(page)
    for scheme in ("light", "dark") if screen is DESK else ():
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function("scheme => document.documentElement.dataset.theme == scheme", arg=scheme)
        page.evaluate(UNFOLD)
        page.add_style_tag(content="* { transition: none !important }")
        assert not page.evaluate(FAINT), f"faint text in the {scheme}"
    assert not page.noise


def stays_folded_until_asked(page) -> None:
    """Answers, and the code of plots."""
    assert not page.locator("details[open]").count()
    hidden = page.locator(".tag_hide-output .cell_output, .tag_hide-input .cell_input pre")
    assert hidden.count() and not hidden.filter(visible=True).count()
    page.locator(".tag_hide-output summary:has-text('output')").first.click()
    assert page.locator(".tag_hide-output .cell_output").first.is_visible()


@functools.cache
def anchors(page: Path) -> set[str]:
    return {unquote(name) for name in re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))}


def test_index_leads_into_both_routes(visit, site):
    page = visit("index")
    picture = page.locator("article img").first
    assert picture.evaluate("image => image.getBoundingClientRect().bottom") < DESK["height"], (
        "the picture is not on the first screen"
    )
    for link in picture.locator("xpath=ancestor::a"), *(page.locator(f"table >> nth={route} >> a").first for route in (0, 1)):
        assert (link.get_attribute("href") or "").removesuffix(".html") in NOTEBOOKS
    for name in NOTEBOOKS:
        assert page.locator(f'article table a[href="{name}.html"]').count() == 1


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
def test_search_finds_without_a_network(screen, visit):
    page = visit("index", screen)
    page.locator('button[aria-label="Search"]:visible').click()
    page.keyboard.type("receptive field")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    assert page.locator('#search-results a[href^="03_pooling.html"]').count()
    assert not page.noise


def test_copying_takes_the_code_as_it_is(visit):
    page = visit(NOTEBOOKS[0], permissions=["clipboard-read", "clipboard-write"])
    code = page.locator("div.cell:not(.tag_hide-input) div.highlight:has(button.copybtn)").first
    code.hover()
    code.locator("button.copybtn").click()
    page.wait_for_selector("button.copybtn.success")
    assert page.evaluate("navigator.clipboard.readText()").strip() == code.locator("pre").inner_text().strip()


def act(page, slider, way: str) -> None:
    if way == "finger":
        box = slider.bounding_box()
        page.touchscreen.tap(box["x"] + 0.2 * box["width"], box["y"] + box["height"] / 2)
    elif way == "mouse":
        slider.click(position={"x": 0.6 * slider.bounding_box()["width"], "y": 5})
    else:
        slider.press(way)


@pytest.mark.parametrize("name", SLIDERS)
def test_a_slider_moves_the_drawing_by_keys_mouse_and_finger(name, visit):
    page = visit(name, PHONE)
    page.evaluate(UNFOLD)
    assert len(SLIDERS) >= 4
    for slider in page.locator("input[type=range]").all():
        drawing = slider.locator("xpath=(preceding-sibling::*[name()='svg'] | ../preceding-sibling::*[name()='svg'])[last()]")
        assert slider.get_attribute("aria-label")
        for way in "ArrowLeft", "Home", "finger", "mouse", "ArrowRight", "End":
            value, before = slider.input_value(), drawing.screenshot()
            act(page, slider, way)
            assert slider.input_value() != value and drawing.screenshot() != before, f"{way} does nothing"
    assert not page.noise


@pytest.mark.parametrize("repository", ["", "https://github.com/someone/fcn"])
def test_pages_lead_to_the_repository_once_it_has_an_address(repository, tmp_path):
    source = tmp_path / "notebooks"
    source.mkdir()
    for name in "conf.py", "site.css", "README.md", "01_dense_prediction.ipynb":
        shutil.copyfile(FOLDER / name, source / name)
    (tmp_path / "pyproject.toml").write_text(f"[project.urls]\nRepository = '{repository}'\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "sphinx", "-Q", source, tmp_path / "site"], check=True, timeout=300)
    page = (tmp_path / "site" / "01_dense_prediction.html").read_text(encoding="utf-8")
    file = "main/notebooks/01_dense_prediction.ipynb"
    colab, binder = (
        f"/github/someone/fcn/blob/{file}",
        "/gh/someone/fcn/main?urlpath=lab/tree/notebooks/01_dense_prediction.ipynb",
    )
    for address in (
        'href="https://github.com/someone/fcn"',
        f"https://colab.research.google.com{colab}",
        f"https://mybinder.org/v2{binder}",
    ):
        assert (address in page) == bool(repository), address
    assert repository or not re.search("colab|binder", page)
