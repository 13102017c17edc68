"""The registry as Make rules: which file needs which, so that make runs what is missing, side by side, and no more.

print(make_rules(profile, store, reports=Path("reports"), chosen="demo"))
"""

from pathlib import Path

from experiments.registry.config import Evaluation, FolderData, PublishedCheckpoint, Training
from experiments.registry.profile import Profile
from experiments.reports.catalogue import MATCHING, REPORTS
from experiments.reports.report import Report
from experiments.runs.cost import cost_file, timed_pairs
from experiments.runs.store import Store
from experiments.runs.training import is_at_hand
from freeanchor.data.coco import locate_split
from freeanchor.errors import DataError, is_line


def make_rules(profile: Profile, store: Store, *, reports: Path, chosen: str) -> str:
    """Rules for every run and report of a profile.

    `chosen` is "demo" (two runs, the rest not run), "paper" (all of ours), "zoo" (the published checkpoints), or the
    name of a report whose runs are made on request alone.
    """
    directory = reports / profile.report_name
    csvs = {name: directory / f"{name}.csv" for name in REPORTS}
    page = directory / "index.html"
    rules = _run_rules(profile, store)
    waited_for = _chosen(profile, store, chosen)
    rules += _report_rules(profile, store, csvs, waited_for)
    rules += _cost_rules(profile, store)
    rules.append(make_rule(page, list(csvs.values()), "$(THREADED) $(FREEANCHOR) report index $(WHERE)"))
    rules.append(_first_page_rule(profile, store, waited_for))
    aliases = [f"{name}: {escape(path)}" for name, path in [*csvs.items(), ("report", page)]]
    return "\n".join([f"REPORT := {escape(page)}", f".PHONY: report {' '.join(REPORTS)}", *aliases, "", *rules])


def _report_rules(profile: Profile, store: Store, csvs: dict[str, Path], waited_for: set[str]) -> list[str]:
    """How reports come about: those that wait for the same runs in one process, which imports torch and the rest once.

    Make before 4.3 knows no targets that are made together, and takes a process for each. Those about matching are
    written beside the others, on another core.
    """
    groups: dict[tuple[tuple[Path, ...], bool, bool], list[str]] = {}
    for name, report in REPORTS.items():
        runs = tuple(_run_needs(report, profile, store, waited_for))
        groups.setdefault((runs, bool(report.needs), report in MATCHING and not report.needs), []).append(name)
    return [_rule_together(names, list(runs), csvs) for (runs, _, _), names in groups.items()]


def _rule_together(names: list[str], runs: list[Path], csvs: dict[str, Path]) -> str:
    needs = [*runs, *dict.fromkeys(csvs[other] for name in names for other in REPORTS[name].needs)]
    targets, wanted = (" ".join(map(escape, paths)) for paths in ([csvs[name] for name in names], needs))
    together, alone = (
        f"\t$(THREADED) $(FREEANCHOR) report {what} $(WHERE)\n" for what in (" ".join(names), "$(basename $(@F))")
    )
    return (
        f"ifneq ($(TOGETHER),)\n{targets} &: {wanted} $(REPORT_NEEDS)\n{together}"
        f"else\n{targets}: {wanted} $(REPORT_NEEDS)\n{alone}endif\n"
    )


def _first_page_rule(profile: Profile, store: Store, waited_for: set[str]) -> str:
    """A page before the trainings: what needs none, and *not run* elsewhere; nothing where all runs are done."""
    training = profile.evaluations[profile.pair[0]].training
    done = ",".join(
        f"$(wildcard {escape(measured_file(profile.evaluations[run], store))})" for run in sorted(waited_for)
    )
    command = f"$(if $(and {done}),@:,$(THREADED) $(FREEANCHOR) report all $(WHERE))\n\t@mkdir -p $(@D) && touch $@"
    data = [data_file(training, store)] if training.data.is_made else []
    mark = Path(".make") / f"{str(profile.report_name).replace('/', '-')}-first.done"
    rule = make_rule(mark, data, command, also=" $(REPORT_NEEDS)")
    return f".PHONY: first-page\nfirst-page: {escape(mark)}\n{rule}"


def escape(path: Path | str) -> str:
    """A path as Make reads it; raises DataError for one that no line of a Makefile can hold."""
    if not is_line(str(path)):
        raise DataError.at(path, "a name that no rule of make can hold", "rename it")
    return str(path).replace("$", "$$").replace(" ", "\\ ")


def make_rule(target: Path, needs: list[Path], command: str, *, also: str = "") -> str:
    """One file rule; `also` are needs that Make itself spells."""
    return f"{escape(target)}: {' '.join(escape(path) for path in needs)}{also}\n\t{command}\n"


def measured_file(evaluation: Evaluation, store: Store) -> Path:
    """The marker of a run that is done."""
    return evaluation.directory(store.runs) / "measurements.csv"


def _trained_file(training: Training | PublishedCheckpoint, store: Store) -> Path:
    return training.directory(store.runs) / "train.json"


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
        trained, measured = _trained_file(training, store), measured_file(evaluation, store)
        needs = []
        if training.data.is_made:
            drawn = data_file(training, store)
            rules[drawn] = make_rule(drawn, [], f"$(FREEANCHOR) data draw {name} $(WHERE)")
            needs = [drawn]
        start = "$(FREEANCHOR)" if isinstance(training, PublishedCheckpoint) else "$(LAUNCH)"
        rules.setdefault(trained, make_rule(trained, needs, f"{start} train {name} $(WHERE) $(HOW)"))
        rules[measured] = make_rule(measured, [trained], f"$(LAUNCH) predict {name} $(WHERE) $(HOW)")
    # Markers are renamed into place whole. Interrupted, make would delete the one whose command has not yet exited: a
    # finished training would be lost, a drawn data set be left without its json.
    return [f".PRECIOUS: {' '.join(escape(path) for path in rules)}\n", *rules.values()]


def _chosen(profile: Profile, store: Store, chosen: str) -> set[str]:
    """The runs that reports may wait for: the demonstration's, all of ours, or the published ones that can be had.

    Of the runs made on request alone, those of the report that is `chosen` by its name.
    """
    if chosen == "demo":
        return set(profile.demo)
    if chosen != "zoo":
        tables = {run for rows in profile.tables.values() for row in rows for run in row.runs}
        asked = {run for name in profile.on_request if name != chosen for run in REPORTS[name].runs(profile)}
        wanted = tables | (set(REPORTS[chosen].runs(profile)) if chosen in REPORTS else set())
        return set(profile.evaluations) - set(profile.zoo) - (asked - wanted)
    trainings = {name: profile.evaluations[name].training for name in profile.zoo}
    return {name for name, it in trainings.items() if isinstance(it, PublishedCheckpoint) and is_at_hand(it, store)}


def _run_needs(report: Report, profile: Profile, store: Store, waited_for: set[str]) -> list[Path]:
    """The runs a report waits for: of those that it shows, the chosen ones; and the times of their steps."""
    shown = [run for run in dict.fromkeys(report.runs(profile)) if run in waited_for]
    needs = [measured_file(profile.evaluations[run], store) for run in shown]
    if report.needs_costs:
        pairs = [pair for pair in timed_pairs(profile).values() if set(pair) <= waited_for]
        needs += [cost_file(profile, pair, store) for pair in pairs]
    return needs


def _cost_rules(profile: Profile, store: Store) -> list[str]:
    """How the times of steps come about: once both detectors are trained."""
    rules = []
    for backbone, pair in timed_pairs(profile).items():
        needs = [_trained_file(profile.evaluations[run].training, store) for run in pair]
        command = f"$(FREEANCHOR) cost {backbone} $(WHERE) $(HOW)"
        rules.append(make_rule(cost_file(profile, pair, store), needs, command))
    return rules
