"""The words and tables of the report, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from miclab.circuits.diagnose import Sign
from miclab.circuits.find import head_name
from miclab.config import schema
from miclab.report.html import escape, mark, table
from miclab.report.measures import FIRST, describe
from miclab.report.run.collect import Collected, Tests, alignment_values, rows_for_measures
from miclab.report.run.data import colour_top
from miclab.report.run.figures import ATTENTION_TOPS, attention_groups
from miclab.report.run.interventions import interventions_section
from miclab.statistics.intervals import Interval
from miclab.worlds.splits import SPLITS

VERDICT_COLUMNS = ("result", "measured", "paper", "criterion", "verdict", "conclusion")
GOOD_VERDICTS = ("agrees", "confirmed", "yes", "reproduced", "holds")
BAD_VERDICTS = ("does not hold", "differs", "failed", "no", "not reproduced", "disagrees")


def verdict_table(verdicts: Sequence[Mapping[str, str]]) -> str:
    """The results beside the paper's."""

    def shown(row: Mapping[str, str], column: str) -> str:
        text = str(row.get(column, ""))
        if column != "verdict" or not text:
            return escape(text)
        kind = "good" if text.lower() in GOOD_VERDICTS else "bad" if text.lower() in BAD_VERDICTS else "plain"
        return mark(text, kind)

    rows = [[shown(row, column) for column in VERDICT_COLUMNS] for row in verdicts]
    return f'<section id="verdicts"><h2>Results</h2>{table(VERDICT_COLUMNS, rows)}</section>'


def _status_mark(status: str) -> str:
    return mark(status, {"finished": "good", "diverged": "bad"}.get(status, "plain"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(interval: Interval | None, value: float | None) -> str:
    if interval is None:
        return _number(value)
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def overview_table(collected: Sequence[Collected], names: Sequence[str]) -> str:
    """One line for each run."""
    rows = []
    for name, one in zip(names, collected, strict=True):
        config, last = one.run.config, one.rows[-1] if one.rows else None
        accuracy = last["accuracy"] if last else {}
        interval = one.icl_intervals[-1] if last else None
        rows.append(
            [
                escape(name),
                escape(", ".join(f"{m} K={part.classes}" for m, part in config.modalities.items())),
                f"{config.sequence.context}, {config.sequence.burstiness}",
                escape(config.decoder.positions),
                f"{config.decoder.layers} × {config.decoder.heads}",
                f"{one.parameters:,}",
                escape(config.optimiser.name),
                f"{last['step']:,}" if last else "",
                _interval(interval, accuracy.get("icl")),
                *(_number(accuracy.get(split)) for split in SPLITS if split != "icl"),
                _status_mark(one.run.status),
            ]
        )
    others = [split for split in SPLITS if split != "icl"]
    head = [
        "run",
        "classes",
        "N, B",
        "positions",
        "layers × heads",
        "weights",
        "optimiser",
        "step",
        "icl",
        *others,
        "",
    ]
    return table(head, rows, numbers=(5, 7, 8, 9, 10, 11))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _facts(collected: Collected) -> str:
    config = collected.run.config
    modalities = "; ".join(
        f"{name} {part.classes:,} classes in {part.dimension} dimensions" for name, part in config.modalities.items()
    )
    items = {
        "modalities": modalities,
        "labels": config.active_labels,
        "context": f"{config.sequence.context} examples, {config.sequence.burstiness} copies of each class",
        "decoder": f"{_count(config.decoder.layers, 'layer')} × {_count(config.decoder.heads, 'head')},"
        f" {config.decoder.positions}",
        "weights": f"{collected.parameters:,}",
        "training": f"{config.optimiser.name}, learning rate {config.optimiser.learning_rate:g}",
        "seed": config.seed,
    }
    listed = "".join(f"<li><span>{escape(k)}</span> {escape(v)}</li>" for k, v in items.items())
    return f'<ul class="facts">{listed}</ul>'


def _problems(collected: Collected) -> str:
    if not collected.problems:
        return ""
    listed = "".join(f"<li>{escape(problem)}</li>" for problem in collected.problems)
    return f'<div class="problems" role="note"><b>Not everything could be read or computed</b><ul>{listed}</ul></div>'


def _any_label(collected: Collected) -> str:
    """What copying scores, measured: B/N leaves out that two classes of a context may carry the same label."""
    if collected.oracles is None:
        return ""
    found = collected.oracles["random_context_label"]
    return f" An answer that copies any label of the context scores {found:.3f} on icl (measured)."


def _alignment(number: int, collected: Collected) -> str:
    found = alignment_values(collected.rows)
    if not found:
        return ""
    pairs = max((e["rows"] for entries in found.values() for e in entries if e), default=0)
    return (
        f'<h4>Alignment of projected items with the host</h4><p class="note">{pairs:,} sampled pairs of a class and a'
        " host class of the same label, the same in every row; CKA is debiased, and what is below the dotted line is"
        f" what shuffled pairs reach by chance in 95 % of cases (too low for few classes: see"
        ' <code>miclab align</code>).</p><div class="pair"><div'
        f' data-figure="run{number}-alignment"></div><div data-figure="run{number}-distance"></div></div>'
    )


def _curves(number: int, collected: Collected, axis_control: str) -> str:
    if not collected.rows:
        return "<section><h3>Training</h3><p>The run has no metric row that can be read.</p></section>"
    kept, request = len(collected.rows), collected.run.request
    thinned = f" {kept} of {collected.rows_in_all} rows are shown." if kept < collected.rows_in_all else ""
    sizes = f"{request.get('sequences', '?')} sequences a split; icl: for each of {request.get('novel_sets', '?')} sets"
    rows = rows_for_measures(collected.rows)
    fewer = f" {len(rows)} of {collected.rows_in_all} rows are shown." if len(rows) < collected.rows_in_all else ""
    names = sorted({name for row in rows for name in row["measures"]}, key=lambda n: (n != FIRST, describe(n)[0]))
    options = "".join(f'<option value="{escape(n)}">{escape(describe(n)[0])}</option>' for n in names)
    measured = (
        "<p>No row holds measures.</p>"
        if not names
        else f'<div class="controls js-only"><label>Measure <select data-choose="measure">{options}</select></label>'
        f'<span class="note" data-text="measure"></span></div><div data-kind="measures" data-run="{number}"></div>'
    )
    return (
        f'<section class="curves"><h3>Accuracy and loss over training</h3>'
        f'<p class="note">{escape(sizes)} of novel classes, whose 95 % interval is the band.'
        f"{_any_label(collected)}{thinned}</p>{axis_control}"
        f'<div class="pair"><div data-figure="run{number}-accuracy"></div><div data-figure="run{number}-loss"></div>'
        f"</div>{_alignment(number, collected)}</section>"
        '<section class="measures"><h3>Strength of every head over training</h3>'
        f'<p class="note">Measured on the icl split; head 2.1 is the first head of the second layer.{fewer}</p>'
        f"{measured}</section>"
    )


def _circuit_words(tests: Tests | None) -> str:
    if tests is None:
        return ""
    if tests.heads is None:
        return "The decoder has a single head, so it has no circuit of two heads."
    previous, induction = tests.heads.previous_token, tests.heads.induction
    own = max(float(v[previous]) for name, v in tests.strengths.items() if name.startswith("label_to_item."))
    total = float(tests.strengths["induction_total"][induction])
    reason = f" They are no induction circuit: {tests.no_circuit}." if tests.no_circuit else ""
    return (
        f"At step {tests.step:,} the strongest previous-token head, by which labels look at the items of their own"
        f" example, is head {head_name(previous)} (attention {own:.2f}); the strongest induction head, by which the"
        f" query looks at the right labels, is head {head_name(induction)} (right minus wrong labels {total:.2f}, at"
        f" most 1).{reason}"
    )


def _attention(number: int, collected: Collected) -> str:
    attention = collected.attention
    if attention is None:
        return "<section><h3>Attention</h3><p>No attention map could be made.</p></section>"
    config, top = collected.run.config, colour_top(attention)
    last, groups = len(attention.steps) - 1, attention_groups(config.decoder.layers, config.decoder.heads)
    tops = "".join(f'<option value="{t}"{" selected" if t == top else ""}>{t:g}</option>' for t in ATTENTION_TOPS)
    layers = ""
    if len(groups) > 1:
        options = "".join(
            f'<option value="{i}"{" selected" if i == len(groups) - 1 else ""}>{i + 1}</option>'
            for i in range(len(groups))
        )
        layers = f'<label>Layer <select data-choose="layer">{options}</select></label>'
    kept, there = len(attention.steps), len(collected.run.checkpoints)
    thinned = f" {kept} of {there} checkpoints are shown." if kept < there else ""
    marks = "".join(f"x{chr(39) * i} is an item of {m}, " for i, m in enumerate(config.order))
    return (
        '<section class="attention"><h3>Attention</h3>'
        f'<p class="note">{escape(_circuit_words(collected.tests))} Each row is a position and what it looks at;'
        f" {escape(marks)}l is a label, q the query. Sequences of novel classes; grey is the future, which a causal"
        f" decoder cannot see.{thinned}</p>"
        '<div class="controls attention-controls js-only"><button type="button">Play</button>'
        f'<label>Checkpoint <input type="range" data-choose="checkpoint" min="0" max="{last}" step="1" value="{last}">'
        f"</label><output></output>{layers}"
        f'<label>Show <select data-choose="sequences"><option value="mean">the mean of {attention.sequences} sequences'
        '</option><option value="example">one sequence</option></select></label>'
        f'<label>Colours up to <select data-choose="top">{tops}</select></label></div>'
        f'<div class="scroll"><div data-kind="attention" data-run="{number}"></div></div></section>'
    )


def _signs(signs: Sequence[Sign] | None) -> str:
    if signs is None:
        return "<section><h3>Signs of failure</h3><p>They were not looked for.</p></section>"
    rows = []
    for sign in signs:
        state = mark("not judged") if sign.shown is None else mark("shown", "bad") if sign.shown else mark("no", "good")
        rows.append([escape(sign.name), state, escape(sign.evidence), escape(sign.advice) if sign.shown else ""])
    return (
        f'<section class="signs"><h3>Signs of failure</h3>{table(["sign", "", "evidence", "advice"], rows)}</section>'
    )


def _timing(collected: Collected) -> str:
    timing = collected.run.timing
    if not timing:
        return ""
    seconds = sum(entry.get("seconds", 0.0) for entry in timing)
    steps = timing[-1]["step"]
    speed = f", {steps / seconds:.0f} steps/s with evaluations" if seconds > 0 and steps else ""
    return f"{steps:,} steps in {seconds:,.0f} s{speed}; last checkpoint {timing[-1].get('time', '')}"


def _settings(collected: Collected) -> str:
    run = collected.run
    text = yaml.safe_dump(schema.to_mapping(run.config), sort_keys=False, width=100)
    asked = yaml.safe_dump(dict(run.request), sort_keys=False) if run.request else ""
    rows = [[escape(k), escape(v)] for k, v in run.environment.items()]
    rows.append(["training", escape(_timing(collected))])
    rows.append(["hash", f"<code>{escape(run.hash)}</code>"])
    return (
        '<section class="settings"><h3>Configuration and environment</h3>'
        f"{table(['', ''], rows, kind='compact')}"
        f"<details><summary>Configuration (YAML)</summary><pre>{escape(text)}</pre></details>"
        f"<details><summary>What was asked of it</summary><pre>{escape(asked)}</pre></details></section>"
    )


def run_section(number: int, name: str, collected: Collected, axis_control: str) -> str:
    """All that the report says about one run."""
    run = collected.run
    return (
        f'<article class="run" id="run{number}" aria-label="{escape(name)}"><h2>{escape(name)}</h2>'
        f"<p>{_status_mark(run.status)} at step {max(run.step, 0):,}: {escape(run.reason)}</p>"
        f"{_facts(collected)}{_problems(collected)}{_curves(number, collected, axis_control)}"
        f"{_attention(number, collected)}{interventions_section(number, collected)}{_signs(collected.signs)}"
        f"{_settings(collected)}</article>"
    )
