from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import bs4
import nbformat
import pandas as pd
import pytest
from check_reports import NO_ALT, content, outside
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from toys import ENTRY, RUN

from sslsim.measures.registry import MEASURES
from sslsim.reports import page as render
from sslsim.reports.markup import COLUMNS, inline, markdown, tidy_html, without_progress


def page(*cells: nbformat.NotebookNode, folder: Path = Path("."), **entry: Any) -> bs4.BeautifulSoup:
    notebook = new_notebook(cells=list(cells))
    text = render.page(notebook, name="some", folder=folder, entry={**ENTRY, **entry}, run=RUN)
    return bs4.BeautifulSoup(text, "html.parser")


def shown(*outputs: nbformat.NotebookNode) -> bs4.BeautifulSoup:
    return page(new_markdown_cell("# T"), new_code_cell("code_here()", outputs=list(outputs)))


def test_formulas_are_mathml_and_what_cannot_be_is_shown_as_tex() -> None:
    assert markdown("a $x_i$").count("<math") == 1
    assert 'display="block"' in markdown("$$\\frac{1}{2}$$")
    assert "<math" in markdown("\\begin{align} a &= b \\end{align}")
    assert '<code class="tex">\\frac{</code>' in markdown("$\\frac{$")


def test_headings_get_unique_ids_and_make_the_contents() -> None:
    soup = page(new_markdown_cell("# T\n\n## One `x` & two\n\n### In\n\n#### Deep"), new_markdown_cell("## One x, two"))
    links = [(a["href"], a.get_text()) for a in soup.select("nav.toc a")]
    assert links == [
        ("#one-x-two", "One x & two"),
        ("#in", "In"),
        ("#one-x-two-2", "One x, two"),
        ("#methods", "Methods and references"),
        ("#provenance", "Provenance"),
    ]
    assert {href[1:] for href, _ in links} <= {element["id"] for element in soup.find_all(id=True)}


def test_the_title_stands_in_the_header_once() -> None:
    soup = page(new_markdown_cell("# Is $R$ high?\n\nSummary."))
    assert len(soup.find_all("h1")) == 1
    assert soup.title
    assert soup.title.get_text() == "Is R <b>high</b>?"
    assert soup.main
    assert soup.main.get_text(strip=True) == "Summary."


def test_code_is_folded_and_empty_cells_leave_nothing() -> None:
    soup = page(new_code_cell("code_here()"), new_code_cell(""))
    assert [details.summary.get_text() for details in soup.select("details.code") if details.summary] == ["Code"]
    assert "code_here" in soup.select("details.code pre")[0].get_text()


def test_links_between_notebooks_become_links_between_pages() -> None:
    assert 'href="layers.html#x"' in markdown("[l](layers.ipynb#x)")
    assert 'href="https://e.org/a.ipynb"' in markdown("[l](https://e.org/a.ipynb)")
    assert "javascript:" not in inline("[l](javascript:alert)")


def test_pictures_keep_alt_text_caption_and_links(tmp_path: Path) -> None:
    mark = {"role": "figure", "name": "f", "files": ["figures/a-f.png", "figures/a-f.svg"], "caption": "High $R$ <b>"}
    mark["table"] = "tables/a-t.csv"
    metadata = {"image/png": {"alt": 'A "line"', "width": 320}, "sslsim": mark}
    caption = new_output("display_data", data={"text/markdown": "High"}, metadata={"sslsim": {"role": "caption"}})
    soup = shown(new_output("display_data", data={"image/png": "aGk="}, metadata=metadata), caption)
    image = soup.select("figure img")[0]
    assert (image["alt"], image["width"], image["src"]) == ('A "line"', "320", "data:image/png;base64,aGk=")
    assert [a["href"] for a in soup.select("figcaption a")] == [*mark["files"], mark["table"]]
    assert soup.select("figcaption math")
    assert not soup.select("figcaption b")
    assert "High" not in str(soup.select("main .text"))
    assert [a["href"] for a in soup.select(".results a")] == [*mark["files"], "some.ipynb"]


def test_cells_of_a_heatmap_can_be_asked_by_the_one_script_that_the_policy_lets_run() -> None:
    cells = {"rows": ["<b>x</b> 0"], "columns": ["y' \" 1"], "numbers": []}
    panel = {"title": "<i>svcca</i>", "box": [0.1, 0.2, 0.5, 0.25], **cells}
    mark = {"role": "figure", "name": "map", "files": [], "caption": "", "panels": [panel]}
    output = new_output("display_data", {"image/png": "aaaa"}, metadata={"sslsim": mark})
    soup = shown(output)
    (area,) = soup.select("figure .sheet .cells")
    assert area["style"] == "left:10.0%;top:20.0%;width:50.0%;height:25.0%"
    assert area["aria-label"] == "Heatmap <i>svcca</i>: arrow keys read its cells"
    assert json.loads(area["data-cells"]) == panel
    assert area["tabindex"] == "0"
    assert len(soup.select("script")) == 1
    assert list(outside(soup)) == []
    soup.select("script")[0].string = "alert(1)"
    assert list(outside(soup)) == ["script that the page's policy does not name: 'alert(1)'"]
    assert not shown(new_output("display_data", {"image/png": "aaaa"})).select(".cells, .enlarge")


def test_a_picture_without_alt_text_is_found_by_the_check() -> None:
    soup = shown(
        new_output("display_data", data={"image/png": "aGk="}),
        new_output("display_data", data={"image/svg+xml": "<svg/>"}),
    )
    assert [image["alt"] for image in soup.select("main img")] == [NO_ALT, NO_ALT]
    assert list(content(soup)) == ["a picture has no alt text"] * 2


def test_tables_scroll_in_their_box_and_are_plain() -> None:
    frame = (
        '<div><style scoped>x</style><table border="1" class="dataframe"><thead><tr style="text-align: right;">'
        "<th></th><th>model_x</th><th>n</th></tr></thead><tbody><tr><th>0</th><td>w2v</td><td>1.5</td></tr></tbody></table></div>"
    )
    soup = shown(new_output("execute_result", data={"text/html": frame, "text/plain": "plain"}))
    box = soup.select("main .scroll")[0]
    assert (box["tabindex"], box["role"]) == ("0", "group")
    assert "scoped" not in str(soup.main)
    assert "border" not in box.table.attrs
    assert [(cell.name, cell.get_text()) for cell in box.select("tbody *")] == [
        ("tr", "w2v1.5"),
        ("th", "w2v"),  # the number of the row is gone
        ("td", "1.5"),
    ]
    assert [cell.get_text() for cell in box.select(".word")] == ["model x", "w2v"]
    head, other = box.select("thead th")
    assert (head["data-column"], head["title"]) == ("model_x", f"{COLUMNS['model'][1]} Column model_x of the file.")
    assert (other["data-column"], other.get_text(), other.get("title")) == ("n", "n", None)


def test_labels_of_rows_stay_and_an_empty_corner_is_no_heading() -> None:
    labelled = tidy_html(pd.DataFrame({"p_t": [1, 2]}, index=pd.Index([1, 0])).to_html())
    soup = bs4.BeautifulSoup(labelled, "html.parser")
    assert [cell.get_text() for cell in soup.select("tbody th")] == ["1", "0"]
    assert [cell.name for cell in soup.select("thead td, thead th")] == ["td", "th"]
    assert soup.select("thead th")[0].get_text() == "p (t test)"


def test_a_section_is_folded_by_the_tag_of_its_cell_up_to_the_next_heading_as_high() -> None:
    figure = {"role": "figure", "name": "more", "files": ["figures/a.png"]}
    tagged = new_code_cell(
        "x", outputs=[new_output("display_data", {"text/plain": "out"}, metadata={"sslsim": figure})]
    )
    folded, part = new_markdown_cell("## A fold\n\nin it"), new_markdown_cell("### Part\n\nin it too")
    last = new_markdown_cell("# Last\n\nlast")
    for cell in (tagged, folded, part, last):
        cell.metadata["tags"] = ["fold"]
    soup = page(new_markdown_cell("# T"), folded, part, new_markdown_cell("## B\n\nout of it"), tagged, last)
    first, output, end = soup.select("main details.fold")
    assert first.summary
    assert first.summary.h2
    assert first.summary.h2["id"] == "a-fold"
    assert [heading.get_text() for heading in first.select("h2, h3")] == ["A fold", "Part"]  # no fold in it
    assert "in it too" in first.get_text()
    assert "out of it" not in first.get_text()
    assert output.get_text(" ", strip=True) == "More: figure more out"
    assert not output.select(".code")  # code has a fold of its own
    assert end.get_text(" ", strip=True) == "Last last"  # closed by the end of the page


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ({"unit": "phone", "pool": "mean"}, "4,000 means over phones, chosen"),
        ({"unit": "word", "pool": "centre"}, "4,000 middle frames of words, chosen"),
        ({"unit": "80ms", "pool": "mean"}, "4,000 means over steps of 80ms, chosen"),
    ],
)
def test_methods_say_what_was_compared_in_place_of_frames(study, told) -> None:
    entry = {**ENTRY, "parameters": [{"name": "frames", "value": 4000, "default": 4000, "help": ""}]}
    run = {**RUN, "study": study, "corpus": {"utterances": 12}}
    page = render.page(new_notebook(), name="some", folder=Path(), entry=entry, run=run)
    assert f"Layers were compared on {told} at common positions" in (text := " ".join(page.split()))
    assert f"Layers were compared by {told[6:-8]}, not frame by frame." in text


def test_methods_have_the_numbers_of_the_run_and_cite_what_was_used() -> None:
    given = {
        "measures": ["svcca", "linear_cka_debiased"],
        "frames": 4000,
        "permutations": 20,
        "rotations": 5,
        "blocks": 10,
    }
    given |= {"block_by": "speaker", "null_seed": 3, "checkpoints": ["a", "b"]}
    models = [{"name": name, "layers": 13, "neurons": 768, "heads": 12, "weights": "trained"} for name in "abc"]
    models[1]["site"] = "ffn"
    mel = {"name": "mel", "layers": 1, "neurons": 80, "heads": 0, "weights": "none"}
    run = {**RUN, "checkpoints": [*models, mel], "corpus": {"utterances": 1200, "minutes": 61.5}}
    entry = {**ENTRY, "parameters": [{"name": n, "value": v, "default": v, "help": ""} for n, v in given.items()]}
    soup = bs4.BeautifulSoup(
        render.page(new_notebook(), name="some", folder=Path(), entry=entry, run=run), "html.parser"
    )
    methods, bibtex = soup.select("#methods .copied")
    text = " ".join(methods.get_text().split())
    for part in (
        "2 models (a: 12 transformer blocks (13 layers with their input) of 768 neurons; "
        "b: feed-forward layers of 13 transformer blocks, of 768 units after the activation function) "
        "on 1,200 utterances (61.5 minutes of speech) with sslsim 1",
        "by svcca, linear_cka_debiased",
        "Raghu et al. 2017; Kornblith et al. 2019; Song et al. 2012.",
        "4,000 frames, chosen at common positions",
        "20 mismatches of utterances, so that the smallest p is 1/21 (seed 3)",
        "5 random bases",
        "a jackknife over 10 blocks of speakers",
        "Computed with python 3.",
    ):
        assert part in text
    assert re.findall(r"^@\w+{(\w+),", bibtex.get_text(), re.MULTILINE) == [
        *("sslsim", "elkheir2024speech", "wu2020similarity", "raghu2017svcca", "kornblith2019similarity"),
        "song2012feature",
    ]
    assert bibtex.get_text().count("{") == bibtex.get_text().count("}")
    given = {"measures": ["max_corr"], "rows": 4}
    entry |= {"parameters": [{"name": n, "value": v, "default": v, "help": ""} for n, v in given.items()]}
    entry |= {"claims": [claim("seeds", "none") | {"measure": "neuron_count"}], "answer": "A.", "bounds": {}}
    soup = bs4.BeautifulSoup(
        render.page(new_notebook(), name="some", folder=Path(), entry=entry, run=run), "html.parser"
    )
    methods, bibtex = (" ".join(part.get_text().split()) for part in soup.select("#methods .copied"))
    assert "We compared 3 models and a spectrogram (a: 12 transformer blocks" in methods
    assert "of 768 neurons and 12 heads; b: " in methods  # where attention is compared
    assert "at most a tenth of those counted are expected there by chance (Benjamini and Hochberg 1995)" in methods
    assert ", by max_corr, neuron_count, after" in methods  # the last of claims alone
    assert "benjamini1995controlling" in bibtex
    bare = page(new_markdown_cell("# T")).select("#methods .copied")[0].get_text()
    assert "mismatches" not in bare  # nothing is said of what the notebook does not have


def test_every_measure_that_names_a_paper_is_cited_as_that_paper() -> None:
    for name, measure in MEASURES.items():
        for paper in re.findall(r"arXiv (\d{4}\.\d{5})", measure.description):
            assert paper in " ".join(bibtex for _, bibtex in render.references([name])), name
    assert "eprint = {2405.07987}" in " ".join(bibtex for _, bibtex in render.references(["mutual_knn_raw"]))
    cited = " ".join(bibtex for _, bibtex in render.references([]))
    citation = (Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8")
    for title in re.findall(r"title: \"?(.+?)\"?$", citation, re.MULTILINE):
        assert f"title = {{{title}}}" in cited
    for paper in re.findall(r"arxiv.org/abs/([\d.]+)", citation):
        assert f"eprint = {{{paper}}}" in cited


def test_columns_that_pages_show_are_explained() -> None:
    for words, told in COLUMNS.values():
        assert words
        assert told.endswith(".")


def test_what_asks_for_scripts_or_the_network_is_dropped() -> None:
    html = "<p>keep</p><script src='https://e.org/x.js'></script><link href='https://e.org/x.css'>"
    assert tidy_html(html) == "<p>keep</p>"
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "IntProgress()"}
    soup = shown(new_output("display_data", data=widget), new_output("display_data", data={"text/html": html}))
    assert "IntProgress" not in soup.get_text()
    assert list(outside(soup)) == []
    policy = soup.select("meta[http-equiv]")[0]
    assert str(policy["content"]).startswith("default-src 'none'")


def test_streams_lose_stderr_and_progress_bars() -> None:
    bar = "w2v:  50%|█████     | 5/10 [00:01<00:01]\rw2v: 100%|██████████| 10/10 [00:02<00:00]"
    assert without_progress(f"before\n{bar}\n10it [00:00, 3it/s]\nwrong\rright\n\nafter\n") == "before\nright\n\nafter"
    soup = shown(
        new_output("stream", name="stdout", text=f"{bar}\n"),
        new_output("stream", name="stderr", text="warning"),
        new_output("stream", name="stdout", text="<i>said</i>"),
    )
    assert [pre.get_text() for pre in soup.select("pre.output")] == ["<i>said</i>"]


def test_a_traceback_is_coloured_and_escaped() -> None:
    error = new_output("error", ename="E<x>", evalue="<u>v</u>", traceback=["\x1b[31mE<x>\x1b[0m: <u>v</u>"])
    soup = page(new_code_cell("x", outputs=[error]), status="failed", error="E<x>: <u>v</u>")
    assert soup.select("#failure pre")[0].get_text() == "E<x>: <u>v</u>"
    assert soup.select("#failure .ansi-red-fg")
    assert "\x1b" not in str(soup)
    assert "E<x>: <u>v</u>" in soup.select("header p.failure")[0].get_text()
    assert not soup.select("u")


def test_provenance_marks_overrides_and_escapes_names() -> None:
    soup = page(new_markdown_cell("# T"))
    rows = {row.th.get_text(): row for row in soup.select("#provenance tbody tr") if row.th}
    assert rows["names"]["class"] == ["set"]
    assert [cell.get_text() for cell in rows["names"].find_all("td")] == ['["<i>a</i>"]', "[]", "of & for"]
    assert [cell.get_text() for cell in rows["count"].find_all("td")] == ["1", "same", ""]
    assert "<script>alert(1)</script>" in rows
    assert "0123456789ab with uncommitted changes" in " ".join(soup.header.get_text().split() if soup.header else [])
    assert "1 min 15 s" in soup.get_text()
    assert list(outside(soup)) == []


def test_images_of_the_text_are_embedded(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"hi")
    soup = page(new_markdown_cell("# T\n\n![An x](x.png)"), folder=tmp_path)
    assert soup.select("main img")[0]["src"] == "data:image/png;base64,aGk="


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["# Title $x$\n\nFirst\nparagraph.\n\nSecond."], ("Title $x$", "First paragraph.")),
        (["# Title", "First."], ("Title", "First.")),
        (["# Title\n\n## Part"], ("Title", "")),
        (["text"], ("", "")),
    ],
)
def test_title_and_summary(cells: list[str], expected: tuple[str, str]) -> None:
    notebook = new_notebook(cells=[new_markdown_cell(cell) for cell in cells])
    assert render.title_and_summary(notebook) == expected


def claim(between: str, verdict: str, p: float | None = 1 / 21, name: str = "<i>shared</i>") -> dict[str, Any]:
    row = {"claim": name, "between": between, "measure": "svcca", "effect": 0.5, "ci_low": 0.4, "ci_high": 0.6, "p": p}
    return (
        row
        | {"control": "untrained: 0.1", "unit": "share", "verdict": verdict, "effect_text": "0.500 (0.400 to 0.600)"}
        | {"p_text": "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"}
    )


def test_claims_stand_side_by_side_on_the_page_and_in_the_index(tmp_path: Path) -> None:
    rows = [
        claim("seeds", "moderate"),
        claim("families", "none", 1e-5),
        claim("families", "not tested (no interval)", None, "other"),
    ]
    mark = {"role": "table", "name": "claims", "files": ["tables/some-claims.csv"], "rows": 3, "claims": rows}
    output = new_output("display_data", {"text/plain": "3 rows"}, metadata={"sslsim": mark})
    notebook = new_notebook(cells=[new_markdown_cell("# T"), new_code_cell("code_here()", outputs=[output])])
    assert [result["claims"] for result in render.results(notebook)] == [rows]

    said = {"answer": "They <agree>.", "bounds": {"share": [0.1, 0.3, 0.6]}}
    entry = {**ENTRY, "claims": rows, **said}
    on_page = page(new_markdown_cell("# T"), claims=rows, **said)
    assert "Bounds of a share: 0.1, 0.3, 0.6." in on_page.get_text()
    text = render.fill("index.html.j2", run={**RUN, "notebooks": {"some": entry}}, folder=tmp_path, sweep=False)
    for soup, control in ((on_page, "untrained: 0.1"), (bs4.BeautifulSoup(text, "html.parser"), "")):
        table = soup.select("table.claims")[0]
        assert soup.get_text().index("They <agree>.") < soup.get_text().index(table.get_text())
        assert [cell.get_text() for cell in table.select("thead th")] == ["claim", "seeds", "families"]
        first, second = (
            [cell.get_text(" ", strip=True) for cell in row.select("th, td")] for row in table.select("tbody tr")
        )
        ends = [f" p 0.048 · {control}", f" p < 0.001 · {control}", f" {control}"] if control else [""] * 3
        effect = "0.500 (0.400 to 0.600)"
        assert first == ["<i>shared</i> svcca, share", f"moderate {effect}{ends[0]}", f"none {effect}{ends[1]}"]
        assert second == ["other svcca, share", "", f"not tested (no interval) {effect}{ends[2]}"]
        assert [one.get_text() for one in table.select(".holds.yes")] == ["moderate"]
        assert [cell["data-head"] for cell in table.select("td")] == ["seeds", "families"] * 2  # where rows are stacked
    assert not page(new_markdown_cell("# T")).select("table.claims")
    assert "open" in on_page.select("details.claims")[0].attrs
    for soup in (on_page, bs4.BeautifulSoup(text, "html.parser")):
        assert [told.get_text() for told in soup.select(".answer")] == ["They <agree>."]


def test_claims_without_a_column_in_common_stand_in_two_tables() -> None:
    def told(claim: str, between: str) -> dict[str, str]:
        return {"claim": claim, "between": between, "measure": "svcca", "unit": "share"}

    rows = [told("alike", "other seed"), told("family", "a"), told("apart", "other family"), told("family", "b")]
    assert [one["columns"] for one in render.side_by_side(rows)] == [["other seed"], ["a", "b"], ["other family"]]
    joined = render.side_by_side([*rows, told("all", "other family"), told("all", "other seed")])
    assert [one["columns"] for one in joined] == [["a", "b"], ["other seed", "other family"]]
    assert [row[0] for row in joined[1]["rows"]] == ["alike", "apart", "all"]


def test_claims_by_many_measures_are_folded_by_measure_with_their_verdicts_counted() -> None:
    rows = [
        claim(between, verdict, name=name) | {"measure": measure}
        for name in ("first", "second")
        for measure in ("svcca", "cca", "linreg", "js")
        for between, verdict in (("seeds", "large"), ("families", "none" if measure == "cca" else "large"))
    ]
    few = page(new_markdown_cell("# T"), claims=[row for row in rows if row["measure"] != "js"], answer="A.", bounds={})
    assert not few.select(".measure")
    soup = page(new_markdown_cell("# T"), claims=rows, answer="A.", bounds={})
    folds = soup.select("details.claims > details.measure")
    told = ["svcca: 4 large", "cca: 2 large, 2 none", "linreg: 4 large", "js: 4 large"]
    assert [fold.summary.get_text() for fold in folds] == told
    assert ["open" in fold.attrs for fold in folds] == [True, False, False, False]
    for fold, measure in zip(folds, ("svcca", "cca", "linreg", "js"), strict=True):
        heads = [row.th.get_text() for row in fold.select("tbody tr")]
        assert heads == [f"{name} {measure}, share" for name in ("first", "second")]
    assert len(soup.select("table.claims td")) == len(rows)


def test_the_index_shows_status_links_and_facts(tmp_path: Path) -> None:
    failed = {**ENTRY, "status": "failed", "error": "E: <b>", "page": False, "files": [], "run": "earlier", "title": ""}
    run = {**RUN, "status": "failed", "notebooks": {"some": ENTRY, "other": failed}}
    soup = bs4.BeautifulSoup(render.fill("index.html.j2", run=run, folder=tmp_path, sweep=False), "html.parser")
    some, other = soup.select("article")
    assert [a["href"] for a in some.select("a")] == ["some.html", "some.html", "some.ipynb", "tables/some-grid.csv"]
    assert soup.h1
    assert soup.h1.get_text() == "Do self-supervised speech models represent speech alike, and where?"
    assert "sslsim bundle" in soup.get_text()
    assert [pill.get_text() for pill in soup.select(".pill")] == ["FAILED", "OK", "FAILED"]
    assert some.select("h2 math")
    assert not some.select("h2 b")
    assert other.select("h2")[0].get_text() == "other"
    assert other.select("p.failure")[0].get_text() == "E: <b>"
    assert "from an earlier run" in other.get_text()
    assert "from an earlier run" not in some.get_text()
    assert '"/x/<reports>"' in soup.get_text()
    assert list(outside(soup)) == []
