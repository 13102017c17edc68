"""The registry as Make rules: which file needs which, so that make runs what is missing, side by side, and no more.

print(make_rules(profile, store, reports=Path("reports"), chosen="demo"))
"""

from pathlib import Path

from experiments.registry.config import Evaluation, FolderData, PublishedCheckpoint, Training
from experiments.registry.profile import PEER, Profile
from experiments.reports.catalogue import LAYOUTS, REPORTS
from experiments.runs.cost import cost_file, timed_pairs
from experiments.runs.store import Store
from experiments.runs.training import is_at_hand
from freeanchor.data.coco import locate_split

# What each report is drawn from besides the two compared runs; Figs. 2 and 3 are drawn from the code alone.
_FROM_CODE = ("figure2", "figure3")


def _escape(path: Path | str) -> str:
    """A path as Make reads it."""
    return str(path).replace("$", "$$").replace(" ", "\\ ")


def _rule(target: Path, needs: list[Path], command: str, *, also: str = "") -> str:
    """One file rule; `also` are needs that Make itself spells."""
    return f"{_escape(target)}: {' '.join(_escape(path) for path in needs)}{also}\n\t{command}\n"


def measured_file(evaluation: Evaluation, store: Store) -> Path:
    """The marker of a run that is done."""
    return evaluation.directory(store.runs) / "measurements.csv"


def data_file(training: Training | PublishedCheckpoint, store: Store) -> Path:
    """The last file of a data set that the project writes: in the layout of the user's own, where it is made of one."""
    if isinstance(training.data, FolderData) and store.folder is not None:
        return store.data(training) / locate_split(store.folder, "val")[0].relative_to(store.folder)
    return store.data(training) / "val.json"


def _run_rules(profile: Profile, store: Store) -> list[str]:
    """How each run comes about: its data, its training, its test."""
    rules: dict[Path, str] = {}
    for name, evaluation in profile.evaluations.items():
        training = evaluation.training
        trained = training.directory(store.runs) / "train.json"
        needs = []
        if training.data.is_made:
            drawn = data_file(training, store)
            rules[drawn] = _rule(drawn, [], f"$(FREEANCHOR) data draw {name} $(WHERE)")
            needs = [drawn]
        start = "$(FREEANCHOR)" if isinstance(training, PublishedCheckpoint) else "$(LAUNCH)"
        rules.setdefault(trained, _rule(trained, needs, f"{start} train {name} $(WHERE) $(HOW)"))
        measured = measured_file(evaluation, store)
        rules[measured] = _rule(measured, [trained], f"$(LAUNCH) predict {name} $(WHERE) $(HOW)")
    # Markers are renamed into place whole. Interrupted, make would delete the one whose command has not yet exited: a
    # finished training would be lost, a drawn data set be left without its json.
    return [f".PRECIOUS: {' '.join(_escape(path) for path in rules)}\n", *rules.values()]


def _chosen(profile: Profile, store: Store, chosen: str) -> set[str]:
    """The runs that reports may wait for: the demonstration's, all of ours, or the published ones that can be had.

    Of the runs made on request alone, those of the report that is `chosen` by its name.
    """
    if chosen == "demo":
        return set(profile.demo)
    if chosen != "zoo":
        tables = {run for rows in profile.tables.values() for row in rows for run in row.runs}
        asked = {run for report in profile.on_request if report != chosen for run in shown_runs(profile, report)}
        return set(profile.evaluations) - set(profile.zoo) - (asked - tables)
    trainings = {name: profile.evaluations[name].training for name in profile.zoo}
    return {name for name, it in trainings.items() if isinstance(it, PublishedCheckpoint) and is_at_hand(it, store)}


def shown_runs(profile: Profile, report: str) -> list[str]:
    """All runs that a report shows, run or not."""
    if report in _FROM_CODE:
        return []
    if report in LAYOUTS:
        return [run for row in profile.tables[report] for run in row.runs]
    if report == "trials":
        return list(profile.trials)
    if report == "ablations":
        return [ablation.run for ablation in profile.ablations]
    if report == "models":
        return list(profile.examples)
    if report == "claims":
        return list(profile.evaluations)
    if report == "peer":
        return [PEER, *profile.pair] if PEER in profile.evaluations else []
    return [run for pair in profile.pairs for run in pair]


def _needs(profile: Profile, store: Store, report: str, chosen: str) -> list[str]:
    """The runs a report waits for: of those that it shows, the chosen ones; trials and the like for `paper` only."""
    if report in ("trials", "ablations", "models") and chosen in ("demo", "zoo"):
        return []
    waited_for = _chosen(profile, store, chosen)
    return [run for run in dict.fromkeys(shown_runs(profile, report)) if run in waited_for]


def _cost_files(profile: Profile, store: Store, chosen: str) -> list[Path]:
    """The timings that a ledger of the chosen runs needs."""
    runs = _chosen(profile, store, chosen)
    return [cost_file(profile, pair, store) for pair in timed_pairs(profile).values() if set(pair) <= runs]


def _cost_rules(profile: Profile, store: Store) -> list[str]:
    """How the timings come about: once both detectors are trained."""
    rules = []
    for backbone, pair in timed_pairs(profile).items():
        needs = [profile.evaluations[run].training.directory(store.runs) / "train.json" for run in pair]
        rules.append(_rule(cost_file(profile, pair, store), needs, f"$(FREEANCHOR) cost {backbone} $(WHERE) $(HOW)"))
    return rules


def make_rules(profile: Profile, store: Store, *, reports: Path, chosen: str) -> str:
    """Rules for every run and report of a profile.

    `chosen` is "demo" (two runs, the rest not run), "paper" (all of ours), "zoo" (the published checkpoints), or the
    name of a report whose runs are made on request alone.
    """
    directory = reports / profile.report_name
    names = list(REPORTS)
    rules = _run_rules(profile, store)
    for name in names:
        needs = [measured_file(profile.evaluations[run], store) for run in _needs(profile, store, name, chosen)]
        if name == "claims":
            needs += _cost_files(profile, store, chosen)
        if name in ("positions", "part_distance", "claims"):
            needs.append(directory / "concentration.csv")  # it asks the models, once, about all bags
        if name in ("figure5", "figure6", "headline", "claims"):
            needs.append(directory / "comparison.csv")  # computed once, not by three processes at a time
        rules.append(
            _rule(directory / f"{name}.csv", needs, f"$(FREEANCHOR) report {name} $(WHERE)", also=" $(REPORT_NEEDS)")
        )
    files = [directory / f"{name}.csv" for name in names]
    rules += _cost_rules(profile, store)
    rules.append(_rule(directory / "index.html", files, "$(FREEANCHOR) report index $(WHERE)"))
    aliases = [f"{name}: {_escape(directory / f'{name}.csv')}" for name in names]
    aliases.append(f"report: {_escape(directory / 'index.html')}")
    head = [f"REPORT := {_escape(directory / 'index.html')}", f".PHONY: report {' '.join(names)}"]
    return "\n".join([*head, *aliases, "", *rules])
