"""What the report of a training says."""

from __future__ import annotations

from training import baselines, metrics, pictures
from training.pipeline import NETWORK, Trained
from training.report import Figures, Picture, Report, Section, Table
from training.split import date_of
from vigil.domains.spec import DAY_MS, Domain


def report(trained: Trained) -> Report:
    """The report of a finished training."""
    domain, test = trained.history.domain, trained.measures[NETWORK]
    figures = [
        (f"{test['auc']:.3f}", "ROC AUC on test"),
        (f"{test['average_precision']:.3f}", f"average precision (chance: {test['bad_rate']:.4f})"),
        (_shown(test, "card_precision_100", 3), f"{domain.entities[0].name} precision@100"),
        (f"{test['ece']:.4f}", "expected calibration error"),
    ]
    return Report(
        title=f"Training report: {domain.name}",
        lead=(
            f"A Keras network of {len(trained.used)} features, trained on {trained.split.train.dates}, "
            f"measured on {trained.split.test.dates}, whose events it never saw."
        ),
        figures=Figures(figures),
        sections=[
            _models(trained),
            _split(trained),
            _money(trained),
            _calibration(trained),
            *_scenarios(trained),
            _features(trained),
            _learning(trained),
            _meanings(domain, trained.used),
        ],
    )


def _models(trained: Trained) -> Section:
    header = ["model", "ROC AUC", "AP", "AUC, unknown", "AP, unknown", "precision@100", "Brier", "ECE"]
    rows = []
    for name in trained.risks:
        found = trained.measures[name]
        keys = (
            "auc",
            "average_precision",
            "auc_unknown",
            "average_precision_unknown",
            "card_precision_100",
            "brier",
            "ece",
        )
        rows.append([name, *(_shown(found, key, 5 if key == "brier" else 4) for key in keys)])
    entity = trained.history.domain.entities[0].name
    note = (
        f"AP: average precision. “Unknown”: the {entity}s already known as compromised are removed, as the Fraud "
        f"Detection Handbook does: known by labels from the {metrics.KNOWN_DAYS} days before the label delay on. "
        f"Precision@100 is the share of compromised ones among the 100 riskiest {entity}s of a day, mean over days; "
        "once found they leave. "
    )
    curve = Picture(
        pictures.precision_recall(trained.test_labels, trained.risks), "precision over recall of all models"
    )
    return Section(
        "The network and its company, on the test days", [Table(header, rows, [0]), note + baselines.NOTE, curve]
    )


def _split(trained: Trained) -> Section:
    history, split = trained.history, trained.split
    rows = []
    for part in split.parts:
        bad = int(history.labels[part.rows].sum())
        rows.append([part.name, part.dates, f"{len(part.rows):,}", f"{bad:,}", f"{bad / len(part.rows):.3%}"])
    text = (
        f"Between the parts lie {split.gap_days} days: as long as a label takes to become known. "
        f"Earlier events, from {date_of(int(history.ts_ms[0] // DAY_MS))} on, fill the windows of the features. "
        "Features, the number of epochs and the calibration were chosen on validation; nothing on test."
    )
    if len(trained.train_rows) < len(split.train.rows):
        text += f" Of the training events a random {len(trained.train_rows):,} were used."
    return Section("Split by time", [Table(["part", "days", "events", "bad", "share"], rows), text])


def _money(trained: Trained) -> Section:
    domain = trained.history.domain
    policy, unit = domain.policy, domain.number(domain.policy.money).unit
    money = trained.history.numbers[policy.money][trained.split.test.rows]
    table = metrics.thresholds(trained.test_labels, trained.risks[NETWORK], money, policy)
    marks = {policy.review_at: " (policy: review)", policy.block_at: " (policy: block)"}
    rows = [
        [f"{row.risk:g}{marks.get(row.risk, '')}", f"{row.events:,}", f"{row.precision:.1%}", f"{row.recall:.1%}"]
        + [f"{value:,.0f}" for value in (row.saved, row.review_net, row.block_net)]
        for row in table
    ]
    header = ["risk from", "events", "precision", "recall", f"saved, {unit}", "net of reviews", "net of wrong blocks"]
    lost = float(money[trained.test_labels == 1].sum())
    text = (
        f"Bad events of the test days were worth {lost:,.0f} {unit}. A review costs {policy.review_cost:g} "
        "and is taken to find the truth; "
        f"blocking a good event costs {policy.block_cost:g}. Each line acts alone, from its risk on."
    )
    strong = [i for i, row in enumerate(table) if row.risk in marks]
    drawn = Picture(pictures.money(table, unit), "money saved less cost, by threshold")
    return Section("What a threshold means in money", [Table(header, rows, strong), text, drawn])


def _calibration(trained: Trained) -> Section:
    bins = metrics.reliability(trained.test_labels, trained.risks[NETWORK])
    slope, intercept = trained.platt
    text = (
        f"Platt scaling on validation (slope {slope:.3f}, intercept {intercept:+.3f}) is folded into the last layer. "
        "Brier and expected calibration error (15 equally wide ranges) are on test."
    )
    rows = [[f"{b.low:.2f} to {b.high:.2f}", f"{b.events:,}", f"{b.risk:.4f}", f"{b.bad:.4f}"] for b in bins]
    header = ["risk", "events", "mean risk", "share of bad"]
    drawn = Picture(pictures.reliability(bins), "share of bad events over risk")
    return Section("Is a risk a probability?", [text, drawn, Table(header, rows)])


def _scenarios(trained: Trained) -> list[Section]:
    history, rows = trained.history, trained.split.test.rows
    if history.scenarios is None:
        return []
    found = metrics.by_scenario(
        trained.test_labels, trained.risks[NETWORK], history.scenarios[rows], history.domain.policy
    )
    shown = [
        [f"{each['scenario']:g}", f"{each['events']:,}", f"{each['mean_risk']:.3f}"]
        + [f"{each[key]:.1%}" for key in ("reviewed_or_blocked", "blocked")]
        for each in found
    ]
    header = ["scenario", "bad events", "mean risk", "reviewed or blocked", "blocked"]
    return [Section("By scenario, under the policy", [Table(header, shown)])]


def _features(trained: Trained) -> Section:
    rows = [[each.name, str(len(each.features)), f"{each.ap:.4f}"] for each in trained.candidates]
    strong = [i for i, each in enumerate(trained.candidates) if each.chosen]
    text = (
        "Sets of features compared by a small gradient boosting on validation; the smallest within 0.002 of the best "
        "is taken. Below: what the network loses on validation (all bad events, a sample of good ones) where a group's "
        "columns are shuffled."
    )
    drawn = Picture(pictures.importance(trained.importance), "average precision lost by group")
    return Section(
        "Which features earn their place",
        [
            Table(["set", "features", "average precision"], rows, strong),
            text,
            drawn,
            Table(["group", "lost"], [[name, f"{value:+.4f}"] for name, value in trained.importance.items()]),
        ],
    )


def _learning(trained: Trained) -> Section:
    text = (
        f"{trained.inputs} inputs after the piecewise-linear encoding, two layers of 64 SiLU. "
        f"{len(trained.fitted.epochs)} of at most {trained.plan.epochs} epochs, best on validation kept."
    )
    return Section("Learning", [text, Picture(pictures.learning(trained.fitted.epochs), "loss by epoch")])


def _meanings(domain: Domain, used: tuple[str, ...]) -> Section:
    rows = [[f.name, "yes" if f.name in used else "", f.meaning] for f in domain.features]
    return Section("All features", [Table(["feature", "used", "meaning"], rows)])


def _shown(measures: dict[str, float], key: str, digits: int) -> str:
    return f"{measures[key]:.{digits}f}" if key in measures else "-"
