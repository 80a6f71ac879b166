"""The report's files: what stands in them, and what cannot get into them."""

import base64
import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from ranking.findings import Finding, Status
from ranking.measurements import SliceComparison
from ranking.results import Comparison, Evidence
from ranking.verdict import GateKnobs
from tasks.evidence_picture import evidence_picture
from tasks.gauges import Gauge, gauges
from tasks.html import page
from tasks.reports import evidence_markdown, write_report
from tests.examples import evidence, with_verdict

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def compared() -> Evidence:
    return evidence(rows=4_000)


def by_name(given: Evidence, knobs: GateKnobs | None = None) -> dict[str, Gauge]:
    return {gauge.name: gauge for gauge in gauges(given.comparison, given.verdict, knobs or GateKnobs())}


def changed(given: Evidence, **changes: object) -> Evidence:
    comparison: Comparison = given.comparison.model_copy(update=changes)
    return given.model_copy(update={"comparison": comparison})


def test_a_report_is_four_files_and_the_html_holds_both_pictures_itself(compared: Evidence, tmp_path: Path) -> None:
    report = write_report.fn(evidence=compared, gate=GateKnobs(), workspace=str(tmp_path))
    uris = (report.markdown_uri, report.html_uri, report.picture_uri, report.evidence_picture_uri)
    assert [Path(uri).name for uri in uris] == ["report.md", "report.html", "report.png", "evidence.png"]
    pictures = {Path(uri).read_bytes() for uri in uris[2:]}
    html = Path(report.html_uri).read_text()
    embedded = {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)}
    assert embedded == pictures
    assert all(picture.startswith(PNG) for picture in pictures)
    assert "<script" not in html
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert html.count("<table>") == 1
    assert html.count("<li>") >= len(compared.verdict.findings) > 0
    assert "![Gating numbers" in Path(report.markdown_uri).read_text()


def test_the_same_evidence_gives_the_same_bytes(compared: Evidence, tmp_path: Path) -> None:
    def files(folder: str) -> dict[str, bytes]:
        write_report.fn(evidence=compared, gate=GateKnobs(), workspace=str(tmp_path / folder))
        return {path.name: path.read_bytes() for path in (tmp_path / folder).rglob("*.*") if path.is_file()}

    assert files("one") == files("two")
    assert len(files("one")) == 4


def test_what_a_log_calls_its_values_is_shown_and_never_run_or_loaded(compared: Evidence) -> None:
    name = 'city=<script>alert(1)</script> | x ![a](http://evil/a.png) [b](http://evil)\n# heading "&'
    hostile = with_verdict(
        compared, findings=(Finding(rule="slices", status=Status.HARM, sentence=f"Proven worse in {name}."),)
    )
    text = evidence_markdown(hostile)
    html = page("<b>title</b>", text, {'"><script>': PNG})
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | x ![a](http://evil/a.png)" in html
    assert "<a " not in html
    assert html.count("<img") == 1
    assert html.count("<h1>") == 1
    assert "&lt;b&gt;title" in html
    part = hostile.comparison.slices[0].model_copy(update={"name": "price=$5^2$ $\\bad{$" + "x" * 60})
    assert evidence_picture(changed(hostile, slices=(part,)).comparison, hostile.verdict, GateKnobs()).startswith(PNG)


def test_a_gauge_has_the_status_and_the_bounds_of_the_rule_it_draws(compared: Evidence) -> None:
    drawn = by_name(compared)
    findings = {finding.rule: finding for finding in compared.verdict.findings}
    rules = {"ΔGAUC": "gauc", "Δlog loss, relative": "log_loss", "predicted / actual clicks": "calibration"}
    for name, rule in rules.items():
        assert drawn[name].status is findings[rule].status
        assert (drawn[name].low, drawn[name].high) == (findings[rule].numbers["low"], findings[rule].numbers["high"])
        assert drawn[name].value is not None
    gain = compared.comparison.auc.difference
    assert gain is not None
    assert (drawn["ΔAUC"].value, drawn["ΔAUC"].status) == (gain.value, Status.OK)


@pytest.mark.parametrize(
    ("value", "low", "status"),
    [
        pytest.param(0.02, 0.01, Status.OK, id="gain"),
        pytest.param(0.02, -0.01, Status.UNPROVEN, id="gain that may be none"),
        pytest.param(0.004, 0.001, Status.UNPROVEN, id="gain too small"),
        pytest.param(-0.004, -0.01, Status.UNPROVEN, id="small drop"),
        pytest.param(-0.006, -0.01, Status.HARM, id="drop"),
    ],
)
def test_the_auc_gauge_is_coloured_by_the_gates_thresholds(
    compared: Evidence, value: float, low: float, status: Status
) -> None:
    gain = compared.comparison.auc.difference
    assert gain is not None
    moved = gain.model_copy(update={"value": value, "low": low, "high": 2 * value - low})
    auc = compared.comparison.auc.model_copy(update={"difference": moved})
    assert by_name(changed(compared, auc=auc))["ΔAUC"].status is status


def test_nothing_measured_is_drawn_as_unproven_and_never_as_fine(compared: Evidence) -> None:
    absent = {
        name: getattr(compared.comparison, name).model_copy(update={"difference": None, "challenger": None})
        for name in ("auc", "gauc", "log_loss", "calibration")
    }
    bare = with_verdict(
        changed(compared, **absent, slices=(), champion_lines=None, challenger_lines=None, agreement=None), findings=()
    )
    drawn = by_name(bare)
    assert {gauge.status for gauge in drawn.values()} == {Status.UNPROVEN}
    assert {gauge.value for gauge in drawn.values()} == {None}
    assert evidence_picture(bare.comparison, bare.verdict, GateKnobs()).startswith(PNG)


def test_a_first_model_and_a_log_of_many_slices_are_drawn(compared: Evidence) -> None:
    first = evidence(champion=None, rows=2_000)
    assert [gauge.name for gauge in gauges(first.comparison, first.verdict, GateKnobs())] == [
        "AUC",
        "predicted / actual clicks",
    ]
    assert evidence_picture(first.comparison, first.verdict, GateKnobs()).startswith(PNG)
    one = compared.comparison.slices[0]
    many: tuple[SliceComparison, ...] = tuple(one.model_copy(update={"name": f"city={n}"}) for n in range(300))
    assert evidence_picture(changed(compared, slices=many).comparison, compared.verdict, GateKnobs()).startswith(PNG)


def test_the_markdown_tells_intervals_of_both_models_agreement_detectable_effect_and_costs(compared: Evidence) -> None:
    text = evidence_markdown(compared)
    area = compared.comparison.auc
    for measured in (area.champion, area.challenger):
        assert measured is not None
        assert measured.high is not None
        assert f"| {measured.value:.4f} ± {measured.high - measured.value:.4f} |" in text
    agreement = compared.comparison.agreement
    assert agreement is not None
    assert agreement.overlaps is not None
    assert agreement.overlaps.x == (1, 3, 5, 10, 20)
    assert f"the challenger keeps {agreement.overlaps.y[0]:.0%} of its top 1, " in text
    assert f"have shifted by a PSI of {agreement.stability_index:.3f}" in text
    assert f"promotes with 80 % probability: {compared.verdict.minimum_detectable_effect:.4f}." in text
    assert "a request of 100 candidates takes 3.25 ms (99th percentile, MLflow" in text
    assert "the bundle has 0.31 MB" in text


_BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

_LOOK = """
<!doctype html><pre id=found></pre><iframe id=report srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const inside = document.getElementById("report").contentDocument;
  const pictures = [...inside.images].map(picture => [picture.complete, picture.naturalWidth, picture.naturalHeight]);
  const asked = document.getElementById("report").contentWindow.performance.getEntriesByType("resource");
  const named = [...inside.querySelectorAll("[src], [href]")].map(element => element.src || element.href);
  const outside = [...asked.map(entry => entry.name), ...named].filter(name => !name.startsWith("data:"));
  const wide = inside.documentElement.scrollWidth - inside.documentElement.clientWidth;
  document.getElementById("found").textContent =
    JSON.stringify({{pictures, outside, wide, title: inside.querySelector("h1").textContent}});
}};
</script>
<style>iframe {{ width: 1200px; height: 3000px }}</style>
"""


@pytest.mark.skipif(_BROWSER is None, reason="no chromium to look at the report with")
def test_a_browser_shows_both_pictures_and_asks_nobody_else_for_anything(compared: Evidence, tmp_path: Path) -> None:
    report = write_report.fn(evidence=compared, gate=GateKnobs(), workspace=str(tmp_path))
    page_with_report = tmp_path / "look.html"
    page_with_report.write_text(_LOOK.format(page=escape(Path(report.html_uri).read_text(encoding="utf-8"))))
    shown = subprocess.run(
        [str(_BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page_with_report.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    told = re.search(r'<pre id="found">(\{.*?\})</pre>', shown.stdout)
    assert told is not None, shown.stderr
    found = json.loads(unescape(told.group(1)))
    assert found["pictures"] == [[True, 1210, 880]] * 2
    assert found["outside"] == []
    assert found["wide"] <= 0
    assert found["title"].startswith("feed_ranker: ")


def test_the_markdown_names_policy_evidence_and_code(compared: Evidence) -> None:
    recorded = compared.model_copy(update={"code_version": "feedloop 9.9"})
    text = evidence_markdown(recorded)
    for words in (f"policy `{'p' * 16}`", f"evidence `{recorded.digest[:16]}`, feedloop 9.9."):
        assert words in text
